#pragma once

#include <c10/util/FunctionRef.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>

#include "plugin/capture/pending_forward.h"
#include "plugin/process/recycled_memory.h"

namespace moetap::plugin {

// Note [Waking the writer]
// To wake a sleeping thread takes a forward 10 to 20 µs, more than all else that its end does. So a writer that has
// nothing to do first looks again after kFirstPause, then after twice as long, up to kLastPause; only then does it
// sleep until it is woken. A host whose forwards follow each other within some 30 ms wakes nobody, and that of an idle
// host sleeps. Whatever must not wait wakes the writer at once: a flush, the close, and a queue that fills up.

/// Forwards on their way from the host's threads to the writer thread, in order. Bounded in bytes; a forward that the
/// writer is working on counts until `written`. A forward larger than the bound is taken when the queue holds nothing
/// else. Thread-safe.
class ForwardQueue {
 public:
  enum class WhenFull { kWait, kRefuse };
  enum class Pushed { kTaken, kFull, kClosed };

  struct Item {
    std::unique_ptr<PendingForward> forward;              // null: only a request to flush
    std::shared_ptr<std::promise<void>> flush_requested;  // fulfilled by the writer
    int64_t bytes = 0;
  };

  static constexpr std::chrono::milliseconds kFirstPause{1}, kLastPause{16};

  explicit ForwardQueue(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  int64_t capacity_bytes() const { return capacity_bytes_; }

  /// Calls `number` with the forward once it is certain that it is taken: in the order of the queue, under its lock. If
  /// `number` throws, the forward is not taken.
  Pushed push(std::unique_ptr<PendingForward> forward, WhenFull when_full,
              c10::function_ref<void(PendingForward&)> number);

  /// Asks the writer to flush after everything pushed so far; ready at once if the queue is closed.
  std::future<void> request_flush();

  using Deadline = std::optional<std::chrono::steady_clock::time_point>;
  enum class Popped { kItem, kDeadline, kClosed };

  /// Blocks until there is an item (moved to `item`), the deadline has passed (none: for ever), or the queue is closed
  /// and all its items have been popped. An item that is there comes before a deadline that has passed. One thread
  /// pops.
  Popped pop(Item& item, const Deadline& deadline);

  /// The writer is done with an item.
  void written(int64_t bytes);

  /// Nothing more is taken; those who wait in `push` get kClosed.
  void close();

  /// True while the popping thread sleeps until it is woken: Note [Waking the writer].
  bool writer_sleeps() const;
  /// How often it was woken, by a forward or a request.
  int64_t wakes() const;

 private:
  bool is_ready() const { return closed_ || !items_.empty(); }
  /// Waits for an item or the close. False: the deadline has passed.
  bool wait_until_ready(std::unique_lock<std::mutex>& lock, const Deadline& deadline);
  /// Wakes the writer, whether it sleeps or pauses. The caller holds the lock, and gives it up.
  void wake(std::unique_lock<std::mutex>& lock);

  const int64_t capacity_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable has_room_;
  std::condition_variable has_item_;
  std::deque<Item, RecyclingAllocator<Item>> items_;
  int64_t bytes_ = 0;          // of the items, and of the one the writer is working on
  int64_t largest_bytes_ = 0;  // of a forward so far
  bool sleeps_ = false;        // the writer, until it is woken
  bool is_wanted_ = false;     // the writer's pause is to end
  int64_t wakes_ = 0;
  bool closed_ = false;
};

}  // namespace moetap::plugin
