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
  int64_t unwritten = 0;  // forwards that the run itself could not record
  int64_t entries = 0;    // of the log
  std::string not_done;   // why the run is not marked as done (why_not_done in run_outputs.h); empty: it is
  RecoveryNote note;
};

struct RunRecovery {
  std::vector<RecoveredRank> ranks;
  std::vector<std::string> errors;  // one line for each rank that could not be recovered or is not done
};

/// Rebuilds the files of a run whose process died, for each rank that left a journal, and removes the journals. The
/// journal of a rank that is not done stays, so that no other run writes over its files. If it is killed on the way,
/// nothing is lost: run it again. A result with neither ranks nor errors: the run was whole
/// already. Throws std::runtime_error with one line if the directory holds no run. Blocks on the disk.
RunRecovery recover_run(const std::string& run_dir);

}  // namespace moetap::plugin
