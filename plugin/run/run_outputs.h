#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "plugin/journal/run_journal.h"
#include "plugin/records/counters.h"
#include "plugin/records/record_sink.h"
#include "plugin/results/log_layout.h"
#include "plugin/results/manifest_file.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_files.h"
#include "plugin/run/run_paths.h"

namespace moetap::plugin {

/// Writes every file that needs the whole run: the rest of the dump, probe, summary, log, results, manifest; not the
/// marker of a finished run. One file may fail and the others succeed, so all are tried. Then the first error is
/// thrown: a std::runtime_error with one line.
void write_run_outputs(RunState& state, const RunPaths& paths, const RunJournal& journal, const SamplesFile& samples,
                       const Counters& counters, const RunTimes& times,
                       const std::optional<RecoveryNote>& recovery = std::nullopt);

/// Where the files of a run come from that are not made of its state alone.
struct OutputSources {
  std::function<LogLosses(const std::string& path, const std::string& time, const LogLayout& layout)> write_log;
  bool has_entries = false;                                // of the log
  std::function<void(const LogLosses& losses)> keep_sums;  // writes sums.frames
  std::vector<std::string> missing = {};                   // what a merge left out, one line each
};
/// The same from other sources than a journal.
void write_run_outputs(RunState& state, const RunPaths& paths, const Counters& counters, const RunTimes& times,
                       const std::optional<RecoveryNote>& recovery, const OutputSources& sources);

/// Why a whole run must not be marked as done although its files are written: every hook stopped after a failure, no
/// hook reported, no forward could be recorded, or with `strict` one of them. One line that says where to read more;
/// empty: it may be. The only verdict on this: for a session that closes, one that resumed a run, and a recovery.
/// `counters` are those of all processes of the run; `calls` those of the newest process that called a hook.
std::string why_not_done(const RunState& state, const Counters& counters, const HookCalls& calls,
                         const RunPaths& paths);

/// Writes the marker that the rank's run is done, then removes the journal.
void mark_done(const RunPaths& paths, int64_t rank, RunJournal& journal);

}  // namespace moetap::plugin
