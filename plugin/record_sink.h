#pragma once

#include <chrono>
#include <memory>

#include "plugin/counters.h"
#include "plugin/forward_record.h"

namespace moetap::plugin {

/// Wall-clock times of a session, for the manifest.
struct RunTimes {
  std::chrono::system_clock::time_point opened;
  std::chrono::system_clock::time_point closed;
};

/// Where a session's records go: the files of a run directory (`RunFiles`), or whatever a host makes of them. Every
/// call comes from the session's writer thread, one at a time; nothing of it runs in a forward pass.
///
/// Errors: each function throws std::runtime_error with one line that says which file, what was wrong and what to do.
/// After the first failure the session reports it once, writes no more records, and still calls `close`; what was
/// written stays readable.
class RecordSink {
 public:
  virtual ~RecordSink() = default;

  /// A model whose forwards may follow. Called once for each model, before its first record.
  virtual void add_model(std::shared_ptr<const ModelDescription> model) = 0;

  /// Takes in one record; records come in the order of `ForwardRecord::index`. One whose `values_only` is set is no
  /// forward.
  virtual void write(const ForwardRecord& record) = 0;

  /// After it, what was written so far survives the process as far as the files' formats allow.
  virtual void flush() = 0;

  /// Writes what needs the whole run (log, summary, manifest). Called at most once, last.
  virtual void close(const Counters& counters, const RunTimes& times) = 0;
};

}  // namespace moetap::plugin
