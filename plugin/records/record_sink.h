#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "plugin/records/counters.h"
#include "plugin/records/export.h"
#include "plugin/records/forward_record.h"

namespace moetap::plugin {

/// Wall-clock times of a session, for the manifest.
struct RunTimes {
  std::chrono::system_clock::time_point opened;
  std::chrono::system_clock::time_point closed;
};

/// How a session leaves its run when it closes.
enum class RunEnd {
  kDone,
  kUnfinished,  // its files are written, but not the marker of a finished run; the journal stays for `config.resume`
};

/// What a sink already holds of a run that is resumed. As constructed: a new run.
struct ResumedRun {
  bool resumed = false;
  int64_t next_forward = 0;      // ForwardRecord::index of the forward after the last recorded one
  int64_t next_sample = 0;       // above every recorded sample
  std::vector<int64_t> samples;  // recorded sample numbers, ascending, each once
};

/// One record cannot be written, but the next one can: its frame is too large, or the format has no place for one of
/// its values. `what()` is one line that says what was wrong with the record. A sink throws it before it has changed
/// anything.
class MOETAP_API RecordError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Where a session's records go: the files of a run directory (`RunFiles`), or whatever a host makes of them. Every
/// call comes from the session's writer thread, one at a time; nothing of it runs in a forward pass.
///
/// Errors:
/// - `add_model` and `write` throw RecordError for one record. The session counts its forwards as `unwritten`, says so
///   once in a notice, and goes on with the next record.
/// - Any other std::exception (as a rule std::runtime_error), from any function: nothing more can be written. `what()`
///   is one line: which file, what was wrong, what to do. The session reports the first one once, writes no more
///   records, and still calls `close`; what was written stays readable.
class MOETAP_API RecordSink {
 public:
  virtual ~RecordSink() = default;

  /// What it holds already. Called before the writer thread starts.
  virtual ResumedRun resumed() const { return {}; }

  /// True if `write` takes records with held calls (Note [Held calls]); else they are measured first. Called before the
  /// writer thread starts.
  virtual bool takes_held_calls() const { return false; }

  /// What the session counted so far. Called before each `flush`.
  virtual void count(const Counters& /*counters*/) {}

  /// Adds a model whose forwards may follow. Called before the first record of the model; if that threw RecordError,
  /// again before its next record.
  virtual void add_model(std::shared_ptr<const ModelDescription> model) = 0;

  /// Takes in one record. Records come in the order of `ForwardRecord::index`. With `values_only` a record is
  /// no forward.
  virtual void write(const ForwardRecord& record) = 0;

  /// Records follow at once: what they add need not survive the death of the process until `end_batch`.
  virtual void begin_batch() {}
  /// Called when no more records wait, and after some megabytes of them. If it throws, none of the batch was written.
  virtual void end_batch() {}

  /// Bytes of the files that grow with the records, so far.
  virtual int64_t bytes_written() const { return 0; }

  /// When it wants to be flushed though no record follows; empty: it does not.
  virtual std::optional<std::chrono::steady_clock::time_point> next_flush() const { return std::nullopt; }

  /// Makes what was written so far survive a power cut. Called when the host asks; while records arrive, at least every
  /// `kSyncInterval` (writer_thread.h).
  virtual void flush() = 0;

  /// The host ended the run before its time: `close`, which follows, leaves what a later session needs to go on.
  virtual void leave_unfinished() {}

  /// Writes what needs the whole run (log, summary, manifest). Called at most once, last.
  virtual void close(const Counters& counters, const RunTimes& times) = 0;
};

}  // namespace moetap::plugin
