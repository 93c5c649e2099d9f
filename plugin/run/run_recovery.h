#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plugin/results/manifest_file.h"

namespace moetap::plugin {

/// What was rebuilt of one rank's run.
struct RecoveredRank {
  int64_t rank = 0;
  std::string task;
  int64_t forwards = 0;
  int64_t entries = 0;  // of the log
  RecoveryNote note;
};

struct RunRecovery {
  std::vector<RecoveredRank> ranks;
  std::vector<std::string> errors;  // ranks that could not be recovered: one line each
};

/// Rebuilds the files of a run whose process died, for each rank that left a journal, and removes the journals. If it
/// is killed on the way, nothing is lost: run it again. A result with neither ranks nor errors: the run was whole
/// already. Throws std::runtime_error with one line if the directory holds no run. Blocks on the disk.
RunRecovery recover_run(const std::string& run_dir);

}  // namespace moetap::plugin
