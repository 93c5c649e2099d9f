#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace moetap::plugin {

/// Where a rank of a run writes.
struct RunPaths {
  RunPaths(const std::filesystem::path& output_dir, int64_t rank)
      : run(output_dir),
        inside(run / "moetap"),
        done(run / ("rank" + std::to_string(rank) + "_metric_eval_done.txt")),
        dump(inside / "dump" / ("rank" + std::to_string(rank))),
        journal(journals(run) / ("rank" + std::to_string(rank))) {}

  /// The folder of all ranks' journals.
  static std::filesystem::path journals(const std::filesystem::path& run) { return run / "moetap" / "journal"; }

  std::filesystem::path run, inside, done, dump, journal;
};

}  // namespace moetap::plugin
