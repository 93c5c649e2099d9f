#include "plugin/merge/merge_runs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "plugin/formats/atomic_file.h"
#include "plugin/merge/merged_dump.h"
#include "plugin/merge/merged_log.h"
#include "plugin/merge/merged_state.h"
#include "plugin/merge/output_folder.h"
#include "plugin/process/error_text.h"
#include "plugin/process/notices.h"
#include "plugin/run/run_outputs.h"
#include "plugin/run/run_ranks.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

/// What a folder of the runs holds that is in no merged run.
void say_what_stays(const RunParts& parts, std::vector<std::string>& missing) {
  std::error_code error;
  for (const auto& part : parts) {
    const fs::path outputs = part->paths().about / "outputs";
    if (fs::exists(outputs, error)) missing.push_back(outputs.string() + ": outputs of the model are not merged");
  }
}

/// A rank's files that are merged when rank 0 closes.
class MergingFiles final : public RunFiles {
 public:
  explicit MergingFiles(const Config& config) : RunFiles(config), config_(config) {
    config_.make_paths_absolute(fs::current_path());
  }

  void close(const Counters& counters, const RunTimes& times) override {
    RunFiles::close(counters, times);
    std::error_code error;
    if (!fs::exists(RunPaths(config_.output_dir, 0).done, error)) return;  // not done
    try {
      if (!wait_for_ranks()) return;
      merge_runs({config_.output_dir}, config_.output_dir + "/merged");
    } catch (const std::exception& failure) {
      notify(fmt::format("the ranks are not merged: {}", one_line(failure)));
    }
  }

 private:
  bool wait_for_ranks() const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(config_.merge_wait);
    const auto world_size = process_rank_from_environment().world_size;
    while (true) {
      const RunRanks ranks = find_run_ranks(config_.output_dir);
      std::vector<int64_t> late;
      for (int64_t rank = 0; rank < world_size; ++rank) {
        const bool is_done = std::binary_search(ranks.done.begin(), ranks.done.end(), rank) &&
                             !std::binary_search(ranks.unfinished.begin(), ranks.unfinished.end(), rank);
        if (!is_done) late.push_back(rank);
      }
      if (late.empty()) return true;
      if (std::chrono::steady_clock::now() >= end) {
        notify(
            fmt::format("the ranks are not merged: rank {} did not finish within {} s (merge_wait); when all have, "
                        "moetap merge {} -o OUT does it",
                        fmt::join(late, ", "), config_.merge_wait, config_.output_dir));
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

  Config config_;
};

}  // namespace

MergedRun merge_runs(const std::vector<std::string>& run_dirs, const std::string& output_dir,
                     const MergeOptions& options, const std::function<void()>& check) {
  MergedRun merged;
  RunParts parts = open_parts(run_dirs, options, merged.missing);
  if (parts.empty()) throw std::runtime_error("there is nothing to merge");
  number_samples(parts, options);
  OutputFolder folder(output_dir);
  const RunPaths paths(folder.temporary(), 0);
  fs::create_directories(paths.journal);
  RunState state(merged_config(parts), {0, 1}, paths);
  RunTimes times{parts.front()->start().opened, {}};
  for (const auto& part : parts) times.opened = std::min(times.opened, part->start().opened);
  state.opened = times.opened;

  SumsWriter sums(sums_path(paths));
  sums.add(kRunStarted, run_start_text({state.config, "", state.rank, state.opened}));
  add_parts(state, sums, parts);
  merge_dumps(state, sums, parts, options.allow_missing, merged.missing, check);
  RunEnding ending = merged_ending(state, parts);
  ending.missing.insert(ending.missing.end(), merged.missing.begin(), merged.missing.end());
  std::sort(ending.missing.begin(), ending.missing.end());
  say_what_stays(parts, merged.missing);
  for (const std::string& line : merged.missing) ++ending.counters.notices[line];
  state.times_resumed = ending.times_resumed;
  times.closed = ending.closed;
  for (const auto& part : parts) merged.entries += static_cast<int64_t>(part->entries().size());
  OutputSources sources;
  sources.has_entries = merged.entries > 0;
  sources.write_log = [&](const std::string& path, const std::string& time, const LogLayout& layout) {
    write_merged_log(path, time, ending.counters, state, layout, parts, sums, check);
    return ending.losses;
  };
  sources.missing = ending.missing;
  sources.keep_sums = [&](const LogLosses&) { sums.finish(state.summary, ending); };
  write_run_outputs(state, paths, ending.counters, times, ending.recovery, sources);
  check();
  fs::remove_all(RunPaths::journals(paths.run));
  write_file_atomically(paths.done.string(), "rank 0 eval done");
  folder.commit();
  merged.ranks = static_cast<int64_t>(parts.size());
  merged.forwards = state.summary.forwards();
  return merged;
}

std::unique_ptr<RecordSink> open_run_files(const Config& config) {
  const ProcessRank rank = process_rank_from_environment();
  if (config.merge_wait > 0 && rank.rank == 0 && rank.world_size > 1) return std::make_unique<MergingFiles>(config);
  return std::make_unique<RunFiles>(config);
}

}  // namespace moetap::plugin
