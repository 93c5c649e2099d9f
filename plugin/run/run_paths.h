#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace moetap::plugin {

/// Where a rank of a run writes. The ranks of a job share the directory. Files about the forwards of rank 0 alone are
/// at the usual places, those of another rank R in `moetap/rankR`.
struct RunPaths {
  RunPaths(const std::filesystem::path& output_dir, int64_t rank)
      : run(output_dir),
        inside(run / "moetap"),
        log(rank == 0 ? run : inside / ("rank" + std::to_string(rank))),
        about(rank == 0 ? inside : log),
        done(run / ("rank" + std::to_string(rank) + "_metric_eval_done.txt")),
        dump(inside / "dump" / ("rank" + std::to_string(rank))),
        journal(journals(run) / ("rank" + std::to_string(rank))) {}

  /// The folder of all ranks' journals.
  static std::filesystem::path journals(const std::filesystem::path& run) { return run / "moetap" / "journal"; }

  std::filesystem::path run, inside;
  std::filesystem::path log;    // folder of <task>.json and results.json
  std::filesystem::path about;  // folder of summary.json, manifest.json, probe.safetensors and outputs/
  std::filesystem::path done, dump, journal;
};

}  // namespace moetap::plugin
