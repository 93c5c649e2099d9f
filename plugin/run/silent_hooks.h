#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plugin/records/counters.h"
#include "plugin/run/run_files.h"

namespace moetap::plugin {

/// The hooks of the methods that ran, over all models of a run; twins of one model count once.
struct SilentHooks {
  std::vector<std::string> names;  // never reported and did not fail, in order; hooks that failed have their own notice
  int64_t num_hooks = 0;           // all
  int64_t num_reported = 0;

  bool none_reported() const { return num_reported == 0 && !names.empty(); }
  /// One line for the user; empty if `names` is.
  std::string notice() const;
};

SilentHooks find_silent_hooks(const RunState& state, const Counters& counters);

}  // namespace moetap::plugin
