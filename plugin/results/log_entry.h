#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/journal/logged_forward.h"
#include "plugin/results/log_layout.h"

namespace moetap::plugin {

// Note [Whole-forward routers]
// A router whose tokens cannot be told apart by sample (a tower that sees the images of all samples as one list)
// measures the whole forward. In a forward of several samples its values stand in the entry of each of them; the
// summary counts them once.

/// What could not be written into the log, counted over the run.
struct LogLosses {
  int64_t not_finite = 0;                        // values that were infinite or NaN
  std::map<std::string, int64_t> refused_names;  // why a value that a model or host logged was left out
};

/// One entry of the log, built from its parts in their order.
class LogEntry {
 public:
  explicit LogEntry(const LogLayout& layout) : layout_(layout) {}

  void add(const LogPart& part);
  /// Adds routers that belong to the part added last.
  void add_shared(const LogPart& shared);

  /// Appends the metrics to an entry that holds the sample's fields.
  void write_to(nlohmann::ordered_json& entry, LogLosses& losses) const;

 private:
  void add_values(std::map<size_t, nlohmann::ordered_json>& layers, LogLosses& losses) const;

  const LogLayout& layout_;
  double duration_s_ = 0;
  std::map<size_t, LoggedRouter> routers_;  // by layer
  std::map<std::pair<std::string, std::string>, std::map<std::string, CustomValue>> values_;
};

}  // namespace moetap::plugin
