#pragma once

#include <functional>
#include <string>
#include <vector>

#include "plugin/merge/merge_parts.h"
#include "plugin/run/run_files.h"
#include "plugin/run/run_sums.h"

namespace moetap::plugin {

// Note [Order of a merged dump]
// The dump of a merged run is what one process would have written that ran all forwards in this order: by their
// smallest sample, forwards of one smallest sample as they were recorded. All forwards of a sample are in one part, so
// the order is the same however a run is split, and in whatever order its parts are merged. `forward` is numbered by
// it. A run whose forwards came in this order (no generation of several batches at once, one thread) keeps its rows and
// shards as they are.

/// Writes the routing dump and the attention matrices of all parts through the writers of `state`, whose dump is empty,
/// and adds the forwards to `sums`. `places` of the parts' layers must be set. What is missing of a dump is an error of
/// one line, or with `allow_missing` a line of `missing`. `check` is called now and then and may throw.
void merge_dumps(RunState& state, SumsWriter& sums, const RunParts& parts, bool allow_missing,
                 std::vector<std::string>& missing, const std::function<void()>& check);

}  // namespace moetap::plugin
