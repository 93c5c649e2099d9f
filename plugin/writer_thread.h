#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "plugin/counters.h"
#include "plugin/record_queue.h"
#include "plugin/record_sink.h"

namespace moetap::plugin {

/// The thread that waits for device results and writes the files of one recording. It blocks all signals, so that the
/// host's handlers never run on it.
class WriterThread {
 public:
  /// `queue` must outlive it.
  WriterThread(std::unique_ptr<RecordSink> sink, RecordQueue& queue);
  ~WriterThread();
  WriterThread(const WriterThread&) = delete;
  WriterThread& operator=(const WriterThread&) = delete;

  /// Closes the queue, waits until its items are written, completes the sink and ends the thread. `counters` is called
  /// on the thread when all records are written. Once.
  void finish(std::function<Counters()> counters);

  /// The first error of the sink, one line.
  std::optional<std::string> error() const;

  /// Adds what only the writer knows: tokens, out_of_range, unwritten.
  void add_to(Counters& counters) const;

 private:
  void run();
  void write(PendingForward& forward);
  void complete_sink();
  void failed(const std::string& reason);

  RecordQueue& queue_;
  std::unique_ptr<RecordSink> sink_;
  RunTimes times_;
  std::function<Counters()> counters_at_close_;  // set before the queue is closed; empty: the sink is not completed
  std::set<std::string> known_models_;           // instances that the sink knows
  mutable std::mutex mutex_;                     // guards error_ and counted_
  std::optional<std::string> error_;
  Counters counted_;
  std::thread thread_;
};

}  // namespace moetap::plugin
