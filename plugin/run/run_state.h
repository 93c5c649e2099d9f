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
#include "plugin/run/run_paths.h"

namespace moetap::plugin {

/// Everything that the files of a run are made of, besides the log's parts and the samples, which lie in the journal.
/// It grows record by record, or is replayed from the journal: both come to the same. Used by one thread.
struct RunState {
  RunState(Config run_config, ProcessRank process_rank, const RunPaths& paths);

  /// Takes in a record: into this state, and into the journal so that `replay` gives this state again.
  void write(const ForwardRecord& record, RunJournal& journal);
  void add_model(std::shared_ptr<const ModelDescription> model, RunJournal& journal);

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
  void add_placements(RunJournal& journal);

  size_t placed_hooks_ = 0;  // placements that the journal holds

  friend class JournalReplay;
};

/// What the frame kRunStarted tells.
struct RunStart {
  Config config;
  ProcessRank rank;
  std::chrono::system_clock::time_point opened;
};

std::string run_start_text(const RunStart& start);
/// The journal's first frame; empty if it is not whole: nothing was recorded. Throws std::runtime_error if the journal
/// cannot be read, or is one of another moetap.
std::optional<RunStart> read_run_start(const std::string& frames_path);

/// The first model of a journal; empty: none was added before the first forward.
std::optional<ModelDescription> read_first_model(const std::string& frames_path);

std::string counters_text(const Counters& counters);

/// A state that was read from a journal, and what the journal tells besides.
struct ReplayedRun {
  std::unique_ptr<RunState> state;
  /// Of all processes that wrote the run: `forwards`, `tokens`, `out_of_range` and `unattributed` of the recorded
  /// forwards; the others as they were when the journal was last synced.
  Counters counters;
  int64_t forwards_handed_over = 0;  // at the last sync: recorded or still waiting
  ResumedRun resumed;
  int64_t end_bytes = 0;          // of the frames that count
  int64_t lost_bytes = 0;         // behind them
  int64_t missing_dump_rows = 0;  // of forwards that count
};

enum class MissingRows {
  kCount,   // a forward whose rows of the dump are missing counts, and the rows are counted as missing
  kEndRun,  // the run ends before it: its sample will be recorded anew
};

/// Builds a run's state, and the journal's entries, from the journal in `paths`; removes rows of the dump that belong
/// to no forward that counts. A frame that is not whole ends the journal. Throws std::runtime_error with one line.
ReplayedRun replay(RunJournal& journal, const RunStart& start, const RunPaths& paths, MissingRows missing_rows);

}  // namespace moetap::plugin
