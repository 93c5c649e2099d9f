#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "plugin/dump/attention_dump.h"
#include "plugin/dump/dump_writer.h"
#include "plugin/journal/run_journal.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/config.h"
#include "plugin/records/counters.h"
#include "plugin/records/layer_table.h"
#include "plugin/records/model_description.h"
#include "plugin/records/record_sink.h"
#include "plugin/results/manifest_file.h"
#include "plugin/results/probe_file.h"
#include "plugin/results/run_summary.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/live_figures.h"
#include "plugin/run/run_paths.h"

namespace moetap::plugin {

struct RunStart;

/// Everything that the files of a run are made of, besides the log's parts and the samples, which are in the journal.
/// It is built record by record, or by `replay` from the journal; both give the same state. Used by one thread.
struct RunState {
  RunState(Config run_config, ProcessRank process_rank, const RunPaths& paths);

  /// Adds a record to this state and to the journal, from which `replay` gives the same state again. Throws RecordError
  /// if the record cannot be written: then nothing has changed, in the state, the journal or the dump. After any other
  /// exception a part of the record may be there: `replay` the journal to get a state of whole forwards.
  void write(const ForwardRecord& record, RunJournal& journal);
  void add_model(std::shared_ptr<const ModelDescription> model, RunJournal& journal);

  const LayerTable& layers_of(hooks::HookKind kind) const {
    return kind == hooks::HookKind::kRouter ? layers : attention_layers;
  }

  /// False: hooks of this kind report in vain.
  bool records(hooks::HookKind kind) const {
    return kind == hooks::HookKind::kRouter || config.attention != Attention::kOff;
  }

  Config config;
  ProcessRank rank;
  std::chrono::system_clock::time_point opened;
  LayerTable layers;  // of the routers
  LayerTable attention_layers{hooks::HookKind::kAttention};
  RunSummary summary;
  ProbeFile probe;
  DumpWriter dump;
  AttentionDump attention_dump;
  std::vector<std::shared_ptr<const ModelDescription>> models;
  std::set<std::pair<std::string, std::string>> methods_that_ran;  // (instance, method)
  UnverifiedHooks unverified;
  int64_t times_resumed = 0;
  int64_t unwritten_before = 0;  // forwards that earlier processes of the run lost

 private:
  struct Change;
  Change prepare(const ForwardRecord& record, const RunJournal& journal) const;
  void apply(Change change, RunJournal& journal);
};

/// All files of one run directory. A session constructs it on the host's thread; for the other calls see RecordSink.
class RunFiles : public RecordSink {
 public:
  /// Creates `config.output_dir` and `moetap/` in it and checks that both can be written; errors as in RecordSink. Rank
  /// and world size come from the environment. With `config.resume` it goes on with the run of a process that died; if
  /// a key that must stay the same has changed, it throws std::invalid_argument that names the key.
  explicit RunFiles(const Config& config);
  /// Frees memory and writes nothing: a process that ends without `close`, or a forked child, leaves the finished files
  /// and the journal as they are.
  ~RunFiles() override = default;
  RunFiles(const RunFiles&) = delete;
  RunFiles& operator=(const RunFiles&) = delete;

  ResumedRun resumed() const override { return resumed_; }
  /// The dump wants columns, and an entry of several samples the sums of each; held calls tell tokens.
  bool takes_held_calls() const override {
    return !writes_dump(state_->config) && tells_tokens(state_->config) &&
           state_->config.log_entries == LogEntries::kRow;
  }
  void count(const Counters& counters) override;
  void add_model(std::shared_ptr<const ModelDescription> model) override;
  void write(const ForwardRecord& record) override;
  void begin_batch() override;
  void end_batch() override;
  int64_t bytes_written() const override;
  std::optional<std::chrono::steady_clock::time_point> next_flush() const override;
  void flush() override;
  void leave_unfinished() override { unfinished_ = true; }
  /// Writes all files. Throws after that if the run recorded nothing (why_not_done in run_outputs.h): such a run is
  /// not marked as done.
  void close(const Counters& counters, const RunTimes& times) override;

 private:
  void begin(const Config& config);
  void resume(const Config& config, const RunStart& start);
  template <typename Write>
  void guard(const Write& write);
  Counters of_run(const Counters& of_session) const;
  void add_counters();
  /// Writes the live figures; one that cannot be written is told once and given up.
  void write_figures();
  void rebuild_state();

  ProcessRank rank_;
  RunPaths paths_;
  RunJournal journal_;
  std::optional<SamplesFile> samples_;
  std::unique_ptr<RunState> state_;
  ResumedRun resumed_;
  LiveFigures figures_;
  Counters newest_;                      // of the run, as of the last `count`
  Counters before_;                      // counters of the processes that wrote the run before this one
  HookCalls calls_before_;               // of the newest of these that called a hook
  std::string counted_, counted_added_;  // kCounted frame: the newest, and the last one in the journal
  bool failed_ = false;                  // something could not be written; set by `guard`
  bool unfinished_ = false;              // the host ended the run before its time
};

}  // namespace moetap::plugin
