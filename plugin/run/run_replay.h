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

/// What the frame kRunStarted holds.
struct RunStart {
  Config config;          // paths as the user gave them
  std::string directory;  // from which relative paths are taken: the working directory when the run began
  ProcessRank rank;
  std::chrono::system_clock::time_point opened;
};

/// The payload of kRunStarted.
std::string run_start_text(const RunStart& start);
/// Reads the journal's first frame; empty if it is not whole: nothing was recorded. Throws std::runtime_error if the
/// journal cannot be read, or if its format is that of another version of moetap.
std::optional<RunStart> read_run_start(const std::string& frames_path);

/// The first model in a journal; empty if none was added before the first forward.
std::optional<ModelDescription> read_first_model(const std::string& frames_path);

/// The payload of kCounted.
std::string counters_text(const Counters& counters);

/// A state that was read from a journal, and what else the journal holds.
struct ReplayedRun {
  std::unique_ptr<RunState> state;
  /// Of all processes that wrote the run. Each count comes from where its CounterSource says.
  Counters counters;
  int64_t forwards_handed_over = 0;     // at the last sync: forwards that were recorded or waited in the queue
  HookCalls calls;                      // of the newest process that called a hook, at its last sync
  int64_t unwritten_before_newest = 0;  // forwards that were lost before the newest recorded one
  ResumedRun resumed;
  int64_t end_bytes = 0;          // where the frames that count end
  int64_t lost_bytes = 0;         // bytes after that
  int64_t missing_dump_rows = 0;  // of forwards that count

  /// The counters for a process that goes on with the run. Of the forwards that were not written it keeps those before
  /// `resumed.next_forward`: no process runs them again. Those after it are run again and are not counted.
  Counters counters_for_resume() const;
};

/// What to do with a forward whose dump rows are missing.
enum class MissingRows {
  kCount,   // the forward counts; its dump rows are counted as missing
  kEndRun,  // the run ends before it: its samples will be recorded again
};

/// Builds a run's state, and the entries of `journal`, from the journal's file. Removes dump rows that belong to no
/// forward that counts. Frames count up to the first that is not whole. Throws std::runtime_error with one line.
ReplayedRun replay(RunJournal& journal, const RunStart& start, const RunPaths& paths, MissingRows missing_rows);

}  // namespace moetap::plugin
