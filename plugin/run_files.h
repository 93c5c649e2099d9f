#pragma once

#include <chrono>
#include <memory>

#include "plugin/config.h"
#include "plugin/counters.h"
#include "plugin/forward_record.h"

namespace moetap::plugin {

/// Wall-clock times of a session, for the manifest.
struct RunTimes {
  std::chrono::system_clock::time_point opened;
  std::chrono::system_clock::time_point closed;
};

/// All files of one run directory. A session constructs it on the host's thread; every other call comes from the session's
/// writer thread, one at a time. Nothing of it runs in a forward pass.
///
/// Errors: each function throws std::runtime_error with one line that says which file, what was wrong and what to do. After the
/// first failure the session reports it once, writes no more records, and still calls `close`; what was written stays readable.
class RunFiles {
 public:
  /// Creates `config.output_dir` and `moetap/` in it and checks that both can be written. Rank and world size come from the
  /// environment.
  explicit RunFiles(const Config& config);
  /// Frees memory and writes nothing: a process that ends or forks without `close` leaves the finished files only.
  ~RunFiles();
  RunFiles(const RunFiles&) = delete;
  RunFiles& operator=(const RunFiles&) = delete;

  /// A model whose forwards may follow. Called once for each model, before its first record.
  void add_model(std::shared_ptr<const ModelDescription> model);

  /// Takes in one record; records come in the order of `ForwardRecord::index`. One whose `values_only` is set is no forward.
  void write(const ForwardRecord& record);

  /// After it, what was written so far survives the process as far as the files' formats allow.
  void flush();

  /// Writes what needs the whole run (log, summary, manifest). Called at most once, last.
  void close(const Counters& counters, const RunTimes& times);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moetap::plugin
