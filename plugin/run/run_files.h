#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "plugin/dump/dump_writer.h"
#include "plugin/journal/run_journal.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/config.h"
#include "plugin/records/counters.h"
#include "plugin/records/layer_table.h"
#include "plugin/records/model_description.h"
#include "plugin/records/record_sink.h"
#include "plugin/results/probe_file.h"
#include "plugin/results/run_summary.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_paths.h"

namespace moetap::plugin {

struct RunStart;

/// Everything that the files of a run are made of, besides the log's parts and the samples, which lie in the journal.
/// It grows record by record, or is replayed from the journal: both give the same. Used by one thread.
struct RunState {
  RunState(Config run_config, ProcessRank process_rank, const RunPaths& paths);

  /// Takes in a record: into this state, and into the journal so that `replay` gives this state again. Throws
  /// RecordError if the record cannot be written: then nothing has changed, here, in the journal or in the dump. Any
  /// other exception may leave a part of the record: the state is then what `replay` makes of the journal.
  void write(const ForwardRecord& record, RunJournal& journal);
  void add_model(std::shared_ptr<const ModelDescription> model, RunJournal& journal);

  /// True if as many hooks failed as there are in the methods that ran of the models from `first_model` on: nothing was
  /// recorded any more.
  bool every_hook_stopped(int64_t failed_hooks, size_t first_model = 0) const;

  Config config;
  ProcessRank rank;
  std::chrono::system_clock::time_point opened;
  LayerTable layers;
  RunSummary summary;
  ProbeFile probe;
  DumpWriter dump;
  std::vector<std::shared_ptr<const ModelDescription>> models;
  std::set<std::pair<std::string, std::string>> methods_that_ran;  // (instance, method)
  int64_t times_resumed = 0;

 private:
  struct Change;
  Change prepare(const ForwardRecord& record, const RunJournal& journal) const;
  void apply(Change change, RunJournal& journal);
};

/// All files of one run directory. A session constructs it on the host's thread.
class RunFiles final : public RecordSink {
 public:
  /// Creates `config.output_dir` and `moetap/` in it and checks that both can be written; errors as in RecordSink. Rank
  /// and world size come from the environment. With `config.resume` it goes on with the run of a process that died, and
  /// throws std::invalid_argument that names the key where the configuration is another.
  explicit RunFiles(const Config& config);
  /// Frees memory and writes nothing: a process that ends or forks without `close` leaves the finished files and the
  /// journal.
  ~RunFiles() override = default;
  RunFiles(const RunFiles&) = delete;
  RunFiles& operator=(const RunFiles&) = delete;

  ResumedRun resumed() const override { return resumed_; }
  void count(const Counters& counters) override;
  void add_model(std::shared_ptr<const ModelDescription> model) override;
  void write(const ForwardRecord& record) override;
  void flush() override;
  void leave_unfinished() override { unfinished_ = true; }
  /// Also throws, after all files are written, if every hook stopped: such a run gets no marker that it is done.
  void close(const Counters& counters, const RunTimes& times) override;

 private:
  void begin(const Config& config);
  void resume(const Config& config, const RunStart& start);
  void add_counters();
  void rebuild_state();

  ProcessRank rank_;
  RunPaths paths_;
  RunJournal journal_;
  std::optional<SamplesFile> samples_;
  std::unique_ptr<RunState> state_;
  ResumedRun resumed_;
  size_t first_model_ = 0;               // of this process, in the state's models
  Counters before_;                      // of the processes before this one
  std::string counted_, counted_added_;  // frame of the session's counters: the newest, and the one in the journal
  bool failed_ = false;                  // the disk refused something
  bool unfinished_ = false;              // the host ended the run before its time
};

}  // namespace moetap::plugin
