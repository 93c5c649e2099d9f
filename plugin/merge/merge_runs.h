#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugin/merge/merge_parts.h"
#include "plugin/records/config.h"
#include "plugin/records/record_sink.h"

namespace moetap::plugin {

/// What was merged.
struct MergedRun {
  int64_t ranks = 0;
  int64_t forwards = 0;
  int64_t entries = 0;               // of the log
  std::vector<std::string> missing;  // what is not in it, one line each
};

/// Merges all ranks of finished runs into one run in `output_dir`, which must not be there or be empty. It appears
/// whole or not at all. The result does not depend on how the forwards were split into runs and ranks, nor, without
/// `relabel`, on the order of `run_dirs`: Note [Order of a merged dump]. Memory holds 40 bytes a sample and 32 a
/// forward of a dump, and a batch of rows. `check` is called now and then and may throw. Errors are std::runtime_error
/// with one line.
MergedRun merge_runs(
    const std::vector<std::string>& run_dirs, const std::string& output_dir, const MergeOptions& options = {},
    const std::function<void()>& check = [] {});

/// The files of a run, as a session writes them. With `merge_wait`, rank 0 of several merges all ranks into
/// OUTPUT_DIR/merged when it closes: it waits so many seconds for the others, and says in a line which did not finish.
std::unique_ptr<RecordSink> open_run_files(const Config& config);

}  // namespace moetap::plugin
