#include "plugin/session/forward_queue.h"

#include <algorithm>

namespace moetap::plugin {

ForwardQueue::Pushed ForwardQueue::push(std::unique_ptr<PendingForward> forward, WhenFull when_full,
                                        c10::function_ref<void(PendingForward&)> number) {
  const int64_t bytes = forward->bytes();
  std::unique_lock lock(mutex_);
  const auto fits = [&] { return closed_ || bytes_ == 0 || bytes_ + bytes <= capacity_bytes_; };
  if (when_full == WhenFull::kWait) {
    if (!fits()) {
      wake(lock);
      lock.lock();
      has_room_.wait(lock, fits);
    }
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
  largest_bytes_ = std::max(largest_bytes_, bytes);
  if (sleeps_ || bytes_ + largest_bytes_ > capacity_bytes_ / 2) wake(lock);
  return Pushed::kTaken;
}

std::future<void> ForwardQueue::request_flush() {
  auto requested = std::make_shared<std::promise<void>>();
  auto flushed = requested->get_future();
  std::unique_lock lock(mutex_);
  if (closed_) {
    requested->set_value();
  } else {
    items_.push_back({nullptr, std::move(requested), 0});
    wake(lock);
  }
  return flushed;
}

ForwardQueue::Popped ForwardQueue::pop(Item& item, const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  if (!is_ready() && !wait_until_ready(lock, deadline)) return Popped::kDeadline;
  if (items_.empty()) {
    return Popped::kClosed;
  }
  item = std::move(items_.front());
  items_.pop_front();
  return Popped::kItem;
}

bool ForwardQueue::wait_until_ready(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
  const auto is_over = [&](std::chrono::steady_clock::time_point now) { return deadline && *deadline <= now; };
  auto now = std::chrono::steady_clock::now();
  is_wanted_ = false;
  for (auto pause = kFirstPause; pause <= kLastPause && !is_over(now); pause *= 2) {
    has_item_.wait_until(lock, deadline ? std::min(now + pause, *deadline) : now + pause, [&] { return is_wanted_; });
    if (is_ready()) return true;
    now = std::chrono::steady_clock::now();
  }
  if (is_over(now)) return false;
  sleeps_ = true;
  const auto ready = [&] { return is_ready(); };
  if (deadline) {
    has_item_.wait_until(lock, *deadline, ready);
  } else {
    has_item_.wait(lock, ready);
  }
  sleeps_ = false;
  return is_ready();
}

void ForwardQueue::wake(std::unique_lock<std::mutex>& lock) {
  is_wanted_ = true;
  sleeps_ = false;
  ++wakes_;
  // Without the lock, for which the woken thread would only wait.
  lock.unlock();
  has_item_.notify_one();
}

bool ForwardQueue::writer_sleeps() const {
  const std::lock_guard lock(mutex_);
  return sleeps_;
}

int64_t ForwardQueue::wakes() const {
  const std::lock_guard lock(mutex_);
  return wakes_;
}

void ForwardQueue::written(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  bytes_ -= bytes;
  has_room_.notify_all();
}

void ForwardQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = is_wanted_ = true;
  has_room_.notify_all();
  has_item_.notify_all();
}

}  // namespace moetap::plugin
