#include "plugin/session/forward_queue.h"

namespace moetap::plugin {

ForwardQueue::Pushed ForwardQueue::push(std::unique_ptr<PendingForward> forward, WhenFull when_full,
                                        const std::function<void(PendingForward&)>& number) {
  const int64_t bytes = forward->bytes();
  std::unique_lock lock(mutex_);
  const auto fits = [&] { return closed_ || bytes_ == 0 || bytes_ + bytes <= capacity_bytes_; };
  if (when_full == WhenFull::kWait) {
    has_room_.wait(lock, fits);
  } else if (!fits()) {
    return Pushed::kFull;
  }
  if (closed_) {
    return Pushed::kClosed;
  }
  // Numbered last, so that a forward that has its number is in the queue.
  items_.push_back({std::move(forward), nullptr, bytes});
  try {
    number(*items_.back().forward);
  } catch (...) {
    items_.pop_back();
    throw;
  }
  bytes_ += bytes;
  has_item_.notify_one();
  return Pushed::kTaken;
}

std::future<void> ForwardQueue::request_flush() {
  auto requested = std::make_shared<std::promise<void>>();
  auto flushed = requested->get_future();
  const std::lock_guard lock(mutex_);
  if (closed_) {
    requested->set_value();
  } else {
    items_.push_back({nullptr, std::move(requested), 0});
    has_item_.notify_one();
  }
  return flushed;
}

ForwardQueue::Popped ForwardQueue::pop(Item& item, const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  const auto ready = [&] { return closed_ || !items_.empty(); };
  if (deadline) {
    if (!has_item_.wait_until(lock, *deadline, ready)) {
      return Popped::kDeadline;
    }
  } else {
    has_item_.wait(lock, ready);
  }
  if (items_.empty()) {
    return Popped::kClosed;
  }
  item = std::move(items_.front());
  items_.pop_front();
  return Popped::kItem;
}

void ForwardQueue::written(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  bytes_ -= bytes;
  has_room_.notify_all();
}

void ForwardQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  has_room_.notify_all();
  has_item_.notify_all();
}

}  // namespace moetap::plugin
