#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/formats/atomic_file.h"
#include "plugin/journal/run_journal.h"
#include "plugin/records/counters.h"
#include "plugin/results/log_entry.h"
#include "plugin/results/samples_file.h"

namespace moetap::plugin {

/// A log that is written entry by entry. It appears whole or not at all. Errors are std::runtime_error.
class LogWriter {
 public:
  LogWriter(const std::string& path, const std::string& time, const Counters& counters, const Config& config);
  /// `entry`: JSON on one line. Entries come in the order of `doc_id`.
  void add(std::string_view entry);
  void commit();

 private:
  AtomicFile file_;
  const char* separator_ = "\n";
};

/// An entry of the log at its place.
struct PlacedEntry {
  int64_t doc_id = 0;
  size_t entry = 0;       // of the journal
  bool numbered = false;  // no samples file gives it a doc_id: it is that of the sample, or of the entry (log_entries)
};
/// The entries of the journal in the order of the log.
std::vector<PlacedEntry> log_order(const RunJournal& journal, const SamplesFile& samples, LogEntries log_entries);

/// Writes `<task>.json` as LibMoE's evaluation does, one entry after the other, in the order of `doc_id`. `time`:
/// %m%d_%H%M. The key "moetap", which LibMoE's readers do not know, holds the counts that say what the log lacks.
/// Returns what had to be left out. Memory holds two numbers for each entry, and one entry. Throws std::runtime_error
/// if the file cannot be written; it appears whole or not at all.
LogLosses write_log_file(const std::string& path, const std::string& time, const Counters& counters,
                         const LogLayout& layout, const RunJournal& journal, const SamplesFile& samples);

/// Writes `results.json`, from which LibMoE's readers take the model's name.
void write_results_file(const std::string& path, const std::string& model_file, const Config& config);

}  // namespace moetap::plugin
