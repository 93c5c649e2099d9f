#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moetap::cli {

/// Something odd about a training log or a table, or about the training that it shows.
struct Diagnostic {
  enum class Level { kInfo, kWatch, kBad };
  Level level = Level::kInfo;
  std::string file;
  int64_t line = 0;  // from 1; 0: the whole file
  std::string text;
};

/// "training_log.txt, line 3: what", one line for the terminal.
std::string diagnostic_line(const Diagnostic& diagnostic);
nlohmann::ordered_json diagnostics_json(const std::vector<Diagnostic>& diagnostics);

/// What a training log holds: {epochs: [{line, segment, epoch, entropy, routing_acc, lr, utilization: [E]}]}. Lines
/// that say nothing are left out, values that are no numbers are null, percent become shares; each with a diagnostic.
/// An epoch that repeats or goes back begins a new segment: the log was appended to. Never throws for what the file
/// holds; CommandError if it cannot be read. Formats: docs/report.md.
nlohmann::ordered_json read_training_log(const std::string& path, std::vector<Diagnostic>& diagnostics);

}  // namespace moetap::cli
