#include "plugin/run/run_snapshot.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <optional>

#include "plugin/formats/atomic_file.h"
#include "plugin/journal/journal_lock.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_outputs.h"
#include "plugin/run/run_ranks.h"
#include "plugin/run/run_replay.h"
#include "plugin/run/run_sums.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

void mark_as_done(const RunPaths& paths) {
  write_file_atomically(paths.done.string(), "snapshot");
}

void link_finished_rank(const RunPaths& from, const RunPaths& to) {
  fs::create_directories(to.about);
  for (const char* name : {"manifest.json", "summary.json", "probe.safetensors"}) {
    if (fs::exists(from.about / name)) fs::create_symlink(fs::absolute(from.about / name), to.about / name);
  }
  if (fs::exists(sums_path(from))) fs::create_symlink(fs::absolute(sums_path(from)), sums_path(to));
  mark_as_done(to);
}

/// Gives the snapshot the frames of a rank. Sums are written in a second pass over the frames, which must not have
/// grown meanwhile: then they are copied.
void take_frames(const std::string& frames, const RunPaths& to, bool copy) {
  fs::create_directories(to.journal);
  const std::string own = RunJournal::frames_path_in(to.journal.string());
  if (copy) {
    fs::copy_file(frames, own);
  } else {
    fs::create_symlink(fs::absolute(frames), own);
  }
}

/// The forwards that were recorded; empty: none yet.
std::optional<int64_t> snapshot_rank(const RunPaths& from, const RunPaths& to) {
  const std::string frames = RunJournal::frames_path_in(from.journal.string());
  const std::optional<RunStart> start = read_run_start(frames);
  if (!start) return std::nullopt;
  const bool is_one_of_many = start->rank.world_size > 1;
  take_frames(frames, to, is_one_of_many);
  RunJournal journal(to.journal.string(), RunJournal::Left::kTake);
  ReplayedRun run = replay(journal, *start, to, MissingRows::kCount);
  if (run.counters.forwards == 0) return std::nullopt;
  journal.read_only();
  const RunTimes times{run.state->opened, std::chrono::system_clock::now()};
  OutputSources sources;
  sources.write_log = [](const std::string&, const std::string&, const LogLayout&) { return LogLosses{}; };
  sources.keep_sums = [&](const LogLosses& losses) {
    if (!is_one_of_many) return;
    write_run_sums(*run.state, to, journal, SamplesFile(""), run.counters, times, losses, std::nullopt);
  };
  write_run_outputs(*run.state, to, run.counters, times, std::nullopt, sources);
  return run.counters.forwards;
}

}  // namespace

std::vector<SnapshotRank> snapshot_run(const std::string& run_dir, const std::string& into) {
  std::vector<SnapshotRank> found;
  const RunRanks ranks = find_run_ranks(run_dir);
  for (const int64_t rank : ranks.done) {
    if (std::binary_search(ranks.unfinished.begin(), ranks.unfinished.end(), rank)) continue;
    link_finished_rank(RunPaths(run_dir, rank), RunPaths(into, rank));
    found.push_back({rank, true, "", 0});
  }
  for (const int64_t rank : ranks.unfinished) {
    const RunPaths from(run_dir, rank), to(into, rank);
    const std::optional<int64_t> forwards = snapshot_rank(from, to);
    fs::remove_all(RunPaths::journals(into));
    if (!forwards) continue;
    mark_as_done(to);
    found.push_back({rank, false, living_owner(from.journal.string()).value_or(""), *forwards});
  }
  std::sort(found.begin(), found.end(), [](const SnapshotRank& a, const SnapshotRank& b) { return a.rank < b.rank; });
  return found;
}

}  // namespace moetap::plugin
