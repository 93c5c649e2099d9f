#pragma once

#include <functional>
#include <string>

#include "plugin/merge/merge_parts.h"
#include "plugin/records/counters.h"
#include "plugin/results/log_layout.h"
#include "plugin/run/run_files.h"
#include "plugin/run/run_sums.h"

namespace moetap::plugin {

/// Writes the log of a merged run: the entries of all parts as they are in their logs, in the order of `doc_id`. With
/// `log_entries: forward` entries that no samples file gives a `doc_id` are numbered anew by their samples. `layout`:
/// of the merged run. Adds the entries to `sums`. `check` is called now and then and may throw. Throws
/// std::runtime_error with one line if a log is not that of its run, or names its layers in another way than the merged
/// one does.
void write_merged_log(const std::string& path, const std::string& time, const Counters& counters, const RunState& state,
                      const LogLayout& layout, const RunParts& parts, SumsWriter& sums,
                      const std::function<void()>& check);

}  // namespace moetap::plugin
