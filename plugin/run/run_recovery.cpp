#include "plugin/run/run_recovery.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include "plugin/formats/temporary_path.h"
#include "plugin/process/error_text.h"
#include "plugin/run/run_outputs.h"
#include "plugin/run/run_replay.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

// The number after a prefix: "rank12" -> 12. Empty for any other name.
std::optional<int64_t> number_behind(const std::string& prefix, const std::string& name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  int64_t number = 0;
  const char* end = name.data() + name.size();
  const auto read = std::from_chars(name.data() + prefix.size(), end, number);
  return read.ec == std::errc{} && read.ptr == end && number >= 0 ? std::optional(number) : std::nullopt;
}

std::vector<int64_t> ranks_with_journal(const fs::path& run) {
  std::vector<int64_t> ranks;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(RunPaths::journals(run), error)) {
    const auto rank = number_behind("rank", entry.path().filename().string());
    if (rank && entry.is_directory(error)) ranks.push_back(*rank);
  }
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

bool holds_finished_run(const fs::path& run) {
  std::error_code error;
  if (fs::exists(run / "moetap" / "manifest.json", error)) return true;
  for (const auto& entry : fs::directory_iterator(run, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("rank") && name.ends_with("_metric_eval_done.txt")) return true;
  }
  return false;
}

// Removes half-written files of processes that died: Note [Temporary names].
void remove_temporary_files(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const auto temporary = parse_temporary_name(name);
    if (temporary && is_dead(temporary->process)) left.push_back(entry.path());
  }
  for (const fs::path& path : left) fs::remove(path, error);
}

std::chrono::system_clock::time_point last_written(const std::string& path) {
  const auto since_file_epoch = fs::last_write_time(path);
  return std::chrono::time_point_cast<std::chrono::system_clock::duration>(
      std::chrono::file_clock::to_sys(since_file_epoch));
}

// Empty if the rank's run had finished and only its journal's folder was still there.
std::optional<RecoveredRank> recover_rank(const RunPaths& paths, int64_t rank) {
  RunJournal journal(paths.journal.string(), RunJournal::Left::kTake);
  const std::string frames = journal.frames_path();
  if (!fs::exists(frames) && fs::exists(paths.done)) {
    journal.remove();
    return std::nullopt;
  }
  const auto start = fs::exists(frames) ? read_run_start(frames) : std::nullopt;
  if (!start) {
    throw std::runtime_error(paths.journal.string() + ": nothing can be recovered, " +
                             (fs::exists(frames) && fs::file_size(frames) > 0
                                  ? "the first frame of the journal is damaged"
                                  : "the run died before it recorded anything"));
  }
  if (start->rank.rank != rank) {
    throw std::runtime_error(paths.journal.string() + ": is the journal of rank " + std::to_string(start->rank.rank));
  }
  const auto closed = last_written(frames);
  RecoveryNote note;
  note.owner = journal.left_by();
  journal.claim();
  for (const fs::path& folder : {paths.journal, paths.dump, paths.log, paths.about}) remove_temporary_files(folder);
  ReplayedRun run = replay(journal, *start, paths, MissingRows::kCount);
  journal.read_only();
  const SamplesFile samples(start->config.samples.empty() ? "" : journal.samples_copy());

  note.lost_bytes = run.lost_bytes;
  note.missing_dump_rows = run.missing_dump_rows;
  note.lost_forwards = std::max<int64_t>(run.forwards_handed_over - run.counters.forwards, 0);
  const int64_t recorded = run.counters.forwards;
  // `forwards` counts all that were handed to the writer, as in a run that closed: the unwritten ones, too.
  run.counters.unwritten = std::max(run.counters.unwritten, run.unwritten_before_newest);
  run.counters.forwards += run.counters.unwritten;
  RecoveredRank recovered{rank,
                          start->config.task,
                          recorded,
                          run.counters.unwritten,
                          static_cast<int64_t>(journal.entries().size()),
                          why_not_done(*run.state, run.counters, run.calls, paths),
                          note};
  run.counters.unwritten += note.lost_forwards;
  run.counters.forwards += note.lost_forwards;
  write_run_outputs(*run.state, paths, journal, samples, run.counters, {run.state->opened, closed}, note);
  if (recovered.not_done.empty() && recorded == 0) {
    recovered.not_done =
        paths.journal.string() + ": the run died before it recorded a forward, so it is not marked as done";
  }
  if (recovered.not_done.empty()) mark_done(paths, rank, journal);
  return recovered;
}

}  // namespace

RunRecovery recover_run(const std::string& run_dir) {
  const fs::path run = run_dir;
  std::error_code error;
  if (!fs::is_directory(run, error)) {
    throw std::runtime_error(run_dir + ": " +
                             (fs::exists(run, error) ? "is no directory" : "there is no such directory") +
                             "; name the directory of a run");
  }
  const auto ranks = ranks_with_journal(run);
  if (ranks.empty() && !holds_finished_run(run)) {
    throw std::runtime_error(run_dir + ": holds no run, nothing to recover");
  }
  RunRecovery recovery;
  for (const int64_t rank : ranks) {
    try {
      if (auto recovered = recover_rank(RunPaths(run, rank), rank)) {
        if (!recovered->not_done.empty()) recovery.errors.push_back(recovered->not_done);
        recovery.ranks.push_back(std::move(*recovered));
      }
    } catch (const std::exception& failure) {
      recovery.errors.push_back(one_line(failure));
    }
  }
  return recovery;
}

}  // namespace moetap::plugin
