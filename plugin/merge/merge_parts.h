#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plugin/merge/run_part.h"

namespace moetap::plugin {

struct MergeOptions {
  /// Numbers the samples of each run, or rank, behind those of the one before; else samples must not overlap.
  bool relabel = false;
  /// Merges what is there: without ranks that did not finish, and without rows of damaged shards.
  bool allow_missing = false;
};

using RunParts = std::vector<std::unique_ptr<RunPart>>;

/// Opens all ranks of the runs, in the order given, and checks that they are runs of the same model and configuration.
/// `missing`: one line for each rank that is left out. Errors are std::runtime_error with one line that names the run:
/// it is no run, did not finish (the line names `moetap recover`), or differs from the first.
RunParts open_parts(const std::vector<std::string>& run_dirs, const MergeOptions& options,
                    std::vector<std::string>& missing);

/// Gives the parts their `sample_offset`, then orders them by their smallest sample. Without `relabel` it throws
/// std::runtime_error that names a sample and two runs that both have it.
void number_samples(RunParts& parts, const MergeOptions& options);

}  // namespace moetap::plugin
