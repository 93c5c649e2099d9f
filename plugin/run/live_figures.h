#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "plugin/process/process_rank.h"
#include "plugin/records/config.h"
#include "plugin/results/event_file.h"
#include "plugin/results/run_figures.h"

namespace moetap::plugin {

/// Writes the figures of a run while it goes on: `metrics_file` and `tensorboard_dir` of the configuration. At most
/// once in `metrics_interval`, and only where forwards came in since; the last time when the run closes. Used by one
/// thread.
class LiveFigures {
 public:
  using Clock = std::chrono::steady_clock;

  LiveFigures(const Config& config, const ProcessRank& rank);

  bool wanted() const { return !metrics_file_.empty() || !tensorboard_dir_.empty(); }

  /// When they are to be written, if `forwards` were recorded so far; empty: nothing is new.
  std::optional<Clock::time_point> due(int64_t forwards) const;

  /// Writes them. A file that cannot be written throws std::runtime_error, once: then that one is given up.
  void write(const RunFigures& figures);

 private:
  std::string metrics_file_, tensorboard_dir_;  // empty: not wanted
  std::vector<std::pair<std::string_view, std::string>> labels_;
  std::chrono::seconds interval_;
  Clock::time_point next_ = Clock::now();
  int64_t written_forwards_ = 0;
  std::optional<EventFile> events_;
};

/// The file of a rank: PATH itself for rank 0, else PATH with ".rankR" before its ending.
std::string file_of_rank(const std::string& path, int64_t rank);

}  // namespace moetap::plugin
