#pragma once

#include <string>

#include "plugin/journal/run_journal.h"
#include "plugin/records/counters.h"
#include "plugin/results/log_entry.h"
#include "plugin/results/samples_file.h"

namespace moetap::plugin {

/// Writes `<task>.json` as LibMoE's evaluation does, one entry after the other, in the order of `doc_id`. `time`:
/// %m%d_%H%M. The key "moetap", which LibMoE's readers do not know, holds the counts that say what the log lacks.
/// Returns what had to be left out. Memory holds two numbers for each entry, and one entry. Throws std::runtime_error
/// if the file cannot be written; it appears whole or not at all.
LogLosses write_log_file(const std::string& path, const std::string& time, const Counters& counters,
                         const LogLayout& layout, const RunJournal& journal, const SamplesFile& samples);

/// Writes `results.json`, from which LibMoE's readers take the model's name.
void write_results_file(const std::string& path, const std::string& model_file, const Config& config);

}  // namespace moetap::plugin
