#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "plugin/journal/run_journal.h"
#include "plugin/process/process_rank.h"
#include "plugin/records/config.h"
#include "plugin/records/counters.h"
#include "plugin/records/model_description.h"
#include "plugin/records/record_sink.h"
#include "plugin/run/run_files.h"
#include "plugin/run/run_paths.h"

namespace moetap::plugin {

/// What the frame kRunStarted tells.
struct RunStart {
  Config config;
  ProcessRank rank;
  std::chrono::system_clock::time_point opened;
};

std::string run_start_text(const RunStart& start);
/// The journal's first frame; empty if it is not whole: nothing was recorded. Throws std::runtime_error if the journal
/// cannot be read, or if another version of moetap wrote it.
std::optional<RunStart> read_run_start(const std::string& frames_path);

/// The first model of a journal; empty: none was added before the first forward.
std::optional<ModelDescription> read_first_model(const std::string& frames_path);

/// The frame kCounted.
std::string counters_text(const Counters& counters);

/// A state that was read from a journal, and what the journal tells besides.
struct ReplayedRun {
  std::unique_ptr<RunState> state;
  /// Of all processes that wrote the run: each count from its CounterSource.
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
