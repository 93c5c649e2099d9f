#pragma once

#include <string>
#include <vector>

namespace moetap::plugin {

/// Which ranks a summary of all may lack.
enum class MissingRanks { kRefuse, kLeaveOut };

/// Writes into `output_dir`, a folder that is there, manifest, summary and probe of all ranks of a run together, as
/// `merge_runs` would, and the marker of a finished run; no dump and no log, so it costs what the sums cost, not the
/// tokens. Gives a line for each rank that is left out. Throws std::runtime_error with one line.
std::vector<std::string> merge_summaries(const std::string& run_dir, const std::string& output_dir,
                                         MissingRanks missing_ranks);

}  // namespace moetap::plugin
