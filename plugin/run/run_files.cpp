#include "plugin/run/run_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "plugin/journal/run_journal.h"
#include "plugin/process/error_text.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/config_keys.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_outputs.h"
#include "plugin/run/run_paths.h"
#include "plugin/run/run_state.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

void refuse_existing_run(const Config& config, const RunPaths& paths) {
  std::error_code error;
  const bool unfinished = fs::exists(paths.journal / "forwards.frames", error);
  if (fs::exists(paths.done, error) || (fs::exists(paths.dump, error) && !unfinished)) {
    throw std::runtime_error(config.output_dir + ": already holds a run" +
                             (config.resume ? " that is finished, there is nothing to resume" : "") +
                             "; name another output_dir, or remove this one");
  }
}

// Creates the run directory; a run that lies there is never written over.
RunPaths open_run(const Config& config, const ProcessRank& rank) {
  // Absolute, since the host may change its working directory while the run goes on.
  RunPaths paths(fs::absolute(config.output_dir), rank.rank);
  std::error_code error;
  fs::create_directories(paths.inside, error);
  if (error) throw std::runtime_error("cannot write " + paths.inside.string() + ": " + error.message());
  refuse_existing_run(config, paths);
  return paths;
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || (file.peek() != std::ifstream::traits_type::eof() && !(text << file.rdbuf()))) {
    throw std::runtime_error("cannot read " + path);
  }
  return text.str();
}

// A run's configuration may change where it says how to record, not what.
void check_same_config(const Config& now, const Config& before, const std::string& samples_copy) {
  constexpr const char* kFree[] = {"output_dir", "resume", "queue_bytes", "on_overflow", "strict", "samples"};
  for (const ConfigKey& key : config_keys()) {
    if (std::find(std::begin(kFree), std::end(kFree), key.name) != std::end(kFree)) continue;
    if (key.get(now) != key.get(before)) {
      throw std::invalid_argument(fmt::format("resume: key \"{}\" is {}, the run in {} was begun with {}",
                                              std::string(key.name), key.get(now).dump(), now.output_dir,
                                              key.get(before).dump()));
    }
  }
  // The file may have moved; its lines are what counts.
  const bool same_samples = now.samples.empty() == before.samples.empty() &&
                            (now.samples.empty() || bytes_of(now.samples) == bytes_of(samples_copy));
  if (!same_samples) {
    throw std::invalid_argument(
        fmt::format("resume: key \"samples\" must name a file with the same lines as {}, with "
                    "which the run in {} was begun, got \"{}\"",
                    before.samples.empty() ? "no file" : before.samples, now.output_dir, now.samples));
  }
}

}  // namespace

struct RunFiles::Impl {
  explicit Impl(const Config& config)
      : rank(process_rank_from_environment()),
        paths(open_run(config, rank)),
        journal(paths.journal.string(), config.resume ? RunJournal::Left::kTake : RunJournal::Left::kRefuse) {
    const bool left = !journal.left_by().empty();
    std::optional<RunStart> before;
    if (left && fs::exists(journal.frames_path())) before = read_run_start(journal.frames_path());
    if (before) {
      resume(config, *before);
      return;
    }
    try {
      refuse_existing_run(config, paths);  // one may have finished before the lock was ours
      begin(config);
    } catch (const std::exception&) {
      journal.remove();
      throw;
    }
  }

  void begin(const Config& config);
  void resume(const Config& config, const RunStart& before);
  void add_counters();

  ProcessRank rank;
  RunPaths paths;
  RunJournal journal;
  std::optional<SamplesFile> samples;
  std::unique_ptr<RunState> state;
  ResumedRun resumed;
  Counters before;                     // of the processes before this one
  std::string counted, counted_added;  // the session's counters; as the journal has them
  bool failed = false;                 // a record could not be written
  bool unfinished = false;             // the host ended the run before its time
};

void RunFiles::Impl::begin(const Config& config) {
  samples.emplace(config.samples);
  state = std::make_unique<RunState>(config, rank, paths);
  state->opened = std::chrono::system_clock::now();
  journal.begin();
  samples->copy_to(journal.samples_copy());
  journal.add(kRunStarted, run_start_text({config, rank, state->opened}));
}

void RunFiles::Impl::resume(const Config& config, const RunStart& start) {
  check_same_config(config, start.config, journal.samples_copy());
  ReplayedRun replayed = replay(journal, start, paths, MissingRows::kEndRun);
  journal.go_on(replayed.end_bytes);
  journal.add(kRunResumed, "{}");
  samples.emplace(start.config.samples.empty() ? "" : journal.samples_copy());
  state = std::move(replayed.state);
  state->config = config;
  ++state->times_resumed;
  resumed = std::move(replayed.resumed);
  before = std::move(replayed.counters);
  before.unwritten = 0;  // they are not recorded, and the host does them anew
}

RunFiles::RunFiles(const Config& config) : impl_(std::make_unique<Impl>(config)) {}

RunFiles::~RunFiles() = default;

ResumedRun RunFiles::resumed() const {
  return impl_->resumed;
}

void RunFiles::count(const Counters& counters) {
  Counters all = impl_->before;
  all += counters;
  impl_->counted = counters_text(all);
}

void RunFiles::Impl::add_counters() {
  if (counted == counted_added) return;
  journal.add(kCounted, counted);
  counted_added = counted;
}

void RunFiles::add_model(std::shared_ptr<const ModelDescription> model) {
  impl_->state->add_model(std::move(model), impl_->journal);
}

void RunFiles::write(const ForwardRecord& record) {
  try {
    impl_->state->write(record, impl_->journal);
  } catch (const std::exception& error) {
    impl_->failed = true;
    throw std::runtime_error(one_line(error));
  }
}

void RunFiles::flush() {
  Impl& run = *impl_;
  try {
    run.add_counters();
    // The rows first: a forward whose frame is there should have its rows, too.
    run.state->dump.sync();
    run.journal.sync();
  } catch (const std::exception&) {
    run.failed = true;
    throw;
  }
}

void RunFiles::leave_unfinished() {
  impl_->unfinished = true;
}

void RunFiles::close(const Counters& counters, const RunTimes& times) {
  Impl& run = *impl_;
  run.journal.check_in_place();
  Counters all = run.before;
  all += counters;
  run.counted = counters_text(all);
  if (run.unfinished && !run.failed) run.add_counters();
  if (run.failed) {
    // A record was taken in by half: the state of the forwards that count is the journal's. It stays, since the run is
    // not done, and `moetap recover` may have more room for the files.
    try {
      run.add_counters();
    } catch (const std::exception&) {
      run.counted_added.clear();  // the disk is full; what is there counts
    }
    const auto start = read_run_start(run.journal.frames_path());
    if (!start) throw std::runtime_error("cannot read " + run.journal.frames_path() + ": its first frame is not whole");
    run.state = replay(run.journal, *start, run.paths, MissingRows::kCount).state;
  }
  write_run_outputs(*run.state, run.paths, run.journal, *run.samples, all, {run.state->opened, times.closed});
  if (!run.failed && !run.unfinished) mark_done(run.paths, run.rank.rank, run.journal);
}

}  // namespace moetap::plugin
