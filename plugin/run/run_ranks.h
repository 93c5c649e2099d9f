#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moetap::plugin {

/// Ranks of a run directory, ascending.
struct RunRanks {
  std::vector<int64_t> done;        // with the marker of a finished run
  std::vector<int64_t> unfinished;  // with a journal of forwards
};

/// Reads the names in the directory; a directory that cannot be read has none.
RunRanks find_run_ranks(const std::string& run_dir);

}  // namespace moetap::plugin
