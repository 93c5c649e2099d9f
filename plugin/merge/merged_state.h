#pragma once

#include <string>

#include "plugin/merge/merge_parts.h"
#include "plugin/run/run_files.h"
#include "plugin/run/run_sums.h"

namespace moetap::plugin {

/// The configuration of a merged run: that of its parts. A key that does not change what is recorded keeps its value
/// where all have the same, else its default; `output_dir` is empty.
Config merged_config(const RunParts& parts);

/// Adds the parts' models, layers, methods, sums and probe to a new run's state and to its sums.frames, and gives the
/// parts the places of their layers. Throws std::runtime_error that names the run and the layer whose id would change:
/// its dump and log could not be taken as they are.
void add_parts(RunState& state, SumsWriter& sums, RunParts& parts);

/// Counts of all parts, and what they lost. Hooks are counted once: the largest number of a part, at least those that
/// reported.
RunEnding merged_ending(const RunState& state, const RunParts& parts);

}  // namespace moetap::plugin
