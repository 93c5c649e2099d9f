#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/formats/atomic_file.h"
#include "plugin/formats/byte_stream.h"
#include "plugin/journal/run_journal.h"
#include "plugin/records/counters.h"
#include "plugin/records/record_sink.h"
#include "plugin/results/manifest_file.h"
#include "plugin/results/samples_file.h"
#include "plugin/run/run_files.h"

namespace moetap::plugin {

// Note [Sums of a finished run]
// A run that is done keeps sums.frames beside its manifest: what `moetap merge` needs and the run's other files do not
// hold exactly. Its frames are those of the journal that describe the run (kRunStarted, which is the first,
// kModelAdded, kHookPlaced, kMethodRan, kColumnWithheld) in the journal's order, and between and behind them:
//
// - kProbed: which forward gave probabilities of the probe
// - kSeriesNamed and kForwardsDumped: which dump rows belong to which forward; only with a dump
// - kLogged: the samples of the log's entries, in the log's order
// - kSummed: the exact sums of the summary
// - kRunEnded, the last: the counts
//
// It tells nothing of single tokens but what the probe tells. A forward is known by its smallest sample and its number.
enum SumsFrame : uint32_t {
  kProbed = 20,          // numbers: first sample, index; then ProbeFile::encode
  kSeriesNamed = 21,     // text: the name of series 0, 1, ... of the dump
  kForwardsDumped = 22,  // ForwardExtents, one after the other
  kLogged = 23,          // LoggedSamples, one after the other
  kSummed = 24,          // SummaryPart
  kRunEnded = 25,  // JSON: config, counters, not_finite, refused, closed, resumed, recovered_from, lost, dump_rows
};

/// Which dump rows, or matrices, a forward has in each series.
struct ForwardExtents {
  struct Extent {
    std::string series;
    int64_t begin = 0, rows = 0;
  };
  int64_t first_sample = -1;  // the smallest of its samples; -1: none
  int64_t index = 0;          // number of the forward
  std::vector<Extent> extents;
};

/// The samples of one entry of the log.
struct LoggedSamples {
  int64_t doc_id = 0;
  bool numbered = false;  // PlacedEntry::numbered
  std::vector<int64_t> samples;
};

/// How a run ended; `kRunEnded`.
struct RunEnding {
  Config config;
  Counters counters;
  LogLosses losses;
  std::chrono::system_clock::time_point closed;
  int64_t times_resumed = 0;
  std::optional<RecoveryNote> recovery;
  std::map<std::string, int64_t> dump_rows;  // by series, of all forwards
  std::vector<std::string> missing = {};     // what a merge left out, one line each
};
std::string to_text(const RunEnding& ending);
/// Throws nlohmann::json::exception or std::invalid_argument for a text that no moetap wrote.
RunEnding run_ending_from_text(const std::string& text, const std::string& source);

/// Writes sums.frames; it appears whole or not at all. `add` first what describes the run. Errors are
/// std::runtime_error with one line.
class SumsWriter {
 public:
  explicit SumsWriter(const std::string& path);
  void add(uint32_t kind, std::string_view payload);
  void add_probed(int64_t first_sample, int64_t index, std::string_view encoded);
  void add(const ForwardExtents& forward);
  void add(const LoggedSamples& entry);
  /// Adds the sums and the ending, and gives the file its name.
  void finish(const RunSummary& summary, RunEnding ending);

 private:
  void end_block();

  AtomicFile file_;
  uint32_t block_kind_ = 0;  // of what is gathered
  ByteWriter block_;
  size_t num_in_block_ = 0;
  std::map<std::string, uint64_t> series_;
  std::map<std::string, int64_t> dump_rows_;
};

/// The path of sums.frames of a rank.
std::string sums_path(const RunPaths& paths);

/// Writes sums.frames of a run whose journal is still there.
void write_run_sums(const RunState& state, const RunPaths& paths, const RunJournal& journal, const SamplesFile& samples,
                    const Counters& counters, const RunTimes& times, const LogLosses& losses,
                    const std::optional<RecoveryNote>& recovery);

}  // namespace moetap::plugin
