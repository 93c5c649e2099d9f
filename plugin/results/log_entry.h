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
// A router whose tokens cannot be told apart by sample (in a tower that sees the images of all samples as one list) is
// measured over the whole forward. In a forward of several samples its values are in the entry of each of them; the
// summary counts them once.

/// What could not be written into the log, counted over the run.
struct LogLosses {
  int64_t not_finite = 0;  // values that were infinite or NaN
  // One line that says which value of a model or host was left out and why -> how often.
  std::map<std::string, int64_t> refused_names;
};

/// One entry of the log; its parts are added in the order of their forwards.
class LogEntry {
 public:
  explicit LogEntry(const LogLayout& layout) : layout_(layout) {}

  void add(const LogPart& part);
  /// Adds the shared hooks (Note [Whole-forward routers]) of the part that was added last.
  void add_shared(const LogPart& shared);

  /// Appends the metrics to `entry`, which holds the sample's fields. Adds to `losses` what is left out.
  void write_to(nlohmann::ordered_json& entry, LogLosses& losses) const;

 private:
  void add_values(std::map<size_t, nlohmann::ordered_json>& layers, LogLosses& losses) const;

  const LogLayout& layout_;
  double duration_s_ = 0;
  std::map<size_t, LoggedRouter> routers_;               // by layer
  std::map<size_t, analysis::AttentionSums> attention_;  // by attention layer
  // (component, layer) -> name -> value
  std::map<std::pair<std::string, std::string>, std::map<std::string, CustomValue>> values_;
};

}  // namespace moetap::plugin
