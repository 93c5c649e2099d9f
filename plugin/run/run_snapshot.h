#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moetap::plugin {

/// A rank as a snapshot found it.
struct SnapshotRank {
  int64_t rank = 0;
  bool is_done = false;
  std::string owner;  // the line of the process that records it now (living_owner); "": it is done, or its process died
  int64_t forwards = 0;  // that were recorded so far; 0 where it is done
};

/// Writes into `into`, a folder that is there and empty, what the run's ranks would leave if they ended now: manifest,
/// summary, probe and sums, and the marker of a finished run; no log and no dump. The run is only read: its processes
/// go on, or their journals stay for `moetap recover`. A rank that recorded no forward yet is left out. Cost: one pass
/// over the journals. Throws std::runtime_error with one line, also where a file went away because the run ended
/// meanwhile: try again.
std::vector<SnapshotRank> snapshot_run(const std::string& run_dir, const std::string& into);

}  // namespace moetap::plugin
