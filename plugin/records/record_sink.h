#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
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

/// What a run is when its session closes.
enum class RunEnd {
  kDone,
  kUnfinished,  // its files are written, without the marker that says done; the journal stays, for `config.resume`
};

/// What a sink holds already of a run that goes on (`resume`); nothing in a new run.
struct ResumedRun {
  bool resumed = false;
  int64_t next_forward = 0;      // ForwardRecord::index of the forward after the last recorded one
  int64_t next_sample = 0;       // above every recorded sample
  std::vector<int64_t> samples;  // recorded sample numbers, ascending, each once
};

/// One record cannot be written, and the sink can take the next: a frame that is too large, a value that the format has
/// no place for. `what()` is one line that says what was wrong with the record. A sink throws it before it has changed
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
/// - Each function throws any other std::exception (as a rule std::runtime_error), with one line that says which file,
///   what was wrong and what to do, where nothing more can be written. After the first the session reports it once,
///   writes no more records, and still calls `close`; what was written stays readable.
class MOETAP_API RecordSink {
 public:
  virtual ~RecordSink() = default;

  /// What it holds already. Called before the writer thread starts.
  virtual ResumedRun resumed() const { return {}; }

  /// What the session counted so far. Called before each `flush`.
  virtual void count(const Counters& /*counters*/) {}

  /// A model whose forwards may follow. Called for each model before its first record; again before the next one if it
  /// threw RecordError.
  virtual void add_model(std::shared_ptr<const ModelDescription> model) = 0;

  /// Takes in one record; records come in the order of `ForwardRecord::index`. One whose `values_only` is set is no
  /// forward.
  virtual void write(const ForwardRecord& record) = 0;

  /// After it, what was written so far survives a power cut. Called when the host asks, and while records arrive at
  /// least every `kSyncInterval` (writer_thread.h).
  virtual void flush() = 0;

  /// The host ended the run before its time: `close`, which follows, leaves what a later session needs to go on.
  virtual void leave_unfinished() {}

  /// Writes what needs the whole run (log, summary, manifest). Called at most once, last.
  virtual void close(const Counters& counters, const RunTimes& times) = 0;
};

}  // namespace moetap::plugin
