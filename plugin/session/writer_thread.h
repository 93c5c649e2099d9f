#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "plugin/records/counters.h"
#include "plugin/records/record_sink.h"
#include "plugin/session/forward_queue.h"

namespace moetap::plugin {

/// The sink is flushed at the latest this long after the first record that is not flushed yet, so that a power cut
/// takes no more than that. A killed process loses less: what the sink has written is in the system's memory at once.
inline constexpr std::chrono::milliseconds kSyncInterval{1000};

/// The thread that waits for device results and writes the files of one recording. It blocks all signals, so that the
/// host's handlers never run on it.
class WriterThread {
 public:
  /// `queue` must outlive it. `counters` is called on the thread, before each flush and at the end.
  WriterThread(std::unique_ptr<RecordSink> sink, ForwardQueue& queue, std::function<Counters()> counters);
  ~WriterThread();
  WriterThread(const WriterThread&) = delete;
  WriterThread& operator=(const WriterThread&) = delete;

  /// Closes the queue, waits until its items are written, completes the sink and ends the thread. Called once.
  void finish(RunEnd end);

  /// The error of the sink that ended the recording, one line. An error of a single record is only counted.
  std::optional<std::string> error() const;

  /// RecordSink::bytes_written, as of the last batch.
  int64_t bytes_written() const { return bytes_written_.load(std::memory_order_relaxed); }

  /// Adds what only the writer knows: tokens, out_of_range, unattributed, unwritten, hooks that their check has
  /// stopped, and its notices.
  void add_to(Counters& counters) const;

 private:
  void run();
  void write(PendingForward& forward);
  void begin_batch();
  void end_batch();
  /// False if the sink failed for good; throws RecordError if only this record is lost.
  bool give_to_sink(const ForwardRecord& record);
  void lost(const std::string& reason);
  /// Tells the user which columns are withheld, and why.
  void tell(const std::vector<UnverifiedColumn>& unverified, const ModelDescription& model);
  void flush_sink();
  std::optional<std::chrono::steady_clock::time_point> next_flush() const;
  void complete_sink();
  void failed(const std::string& reason);

  ForwardQueue& queue_;
  std::unique_ptr<RecordSink> sink_;
  RunTimes times_;
  const std::function<Counters()> session_counters_;
  std::optional<RunEnd> end_;           // set before the queue is closed; empty: the sink is not completed
  std::set<std::string> known_models_;  // instances that the sink knows
  std::optional<std::chrono::steady_clock::time_point> next_sync_;     // empty: nothing new was written
  std::optional<std::chrono::steady_clock::time_point> wanted_flush_;  // RecordSink::next_flush
  std::atomic<int64_t> bytes_written_ = 0;
  Counters batch_;            // of the records in the batch
  int64_t batch_bytes_ = 0;   // that they hold in the queue; 0: there is no batch
  mutable std::mutex mutex_;  // guards error_ and counted_
  std::optional<std::string> error_;
  Counters counted_;
  std::thread thread_;
};

}  // namespace moetap::plugin
