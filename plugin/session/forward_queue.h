#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>

#include "plugin/capture/pending_forward.h"

namespace moetap::plugin {

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

  explicit ForwardQueue(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  int64_t capacity_bytes() const { return capacity_bytes_; }

  /// Calls `number` with the forward once it is certain that it is taken: in the order of the queue, under its lock. If
  /// `number` throws, the forward is not taken.
  Pushed push(std::unique_ptr<PendingForward> forward, WhenFull when_full,
              const std::function<void(PendingForward&)>& number);

  /// Asks the writer to flush after everything pushed so far; ready at once if the queue is closed.
  std::future<void> request_flush();

  using Deadline = std::optional<std::chrono::steady_clock::time_point>;
  enum class Popped { kItem, kDeadline, kClosed };

  /// Blocks until there is an item (moved to `item`), the deadline has passed (none: for ever), or the queue is closed
  /// and all its items have been popped. An item that is there comes before a deadline that has passed.
  Popped pop(Item& item, const Deadline& deadline);

  /// The writer is done with an item.
  void written(int64_t bytes);

  /// Nothing more is taken; those who wait in `push` get kClosed.
  void close();

 private:
  const int64_t capacity_bytes_;
  std::mutex mutex_;
  std::condition_variable has_room_;
  std::condition_variable has_item_;
  std::deque<Item> items_;
  int64_t bytes_ = 0;  // of the items, and of the one the writer is working on
  bool closed_ = false;
};

}  // namespace moetap::plugin
