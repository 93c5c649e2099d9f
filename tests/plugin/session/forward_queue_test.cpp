#include "plugin/session/forward_queue.h"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace moetap::plugin {
namespace {

using Popped = ForwardQueue::Popped;
using Pushed = ForwardQueue::Pushed;
using WhenFull = ForwardQueue::WhenFull;

Pushed push(ForwardQueue& queue, int64_t index = 0, WhenFull when_full = WhenFull::kRefuse) {
  return queue.push(std::make_unique<PendingForward>(), when_full,
                    [&](PendingForward& forward) { forward.record.index = index; });
}

int64_t pop(ForwardQueue& queue) {
  ForwardQueue::Item item;
  return queue.pop(item, std::nullopt) == Popped::kItem && item.forward ? item.forward->record.index : -1;
}

const int64_t kOneForward = PendingForward().bytes();

TEST(ForwardQueue, KeepsTheOrder) {
  ForwardQueue queue(1 << 20);
  for (const int64_t index : {4, 5, 6}) EXPECT_EQ(push(queue, index), Pushed::kTaken);
  for (const int64_t index : {4, 5, 6}) EXPECT_EQ(pop(queue), index);
}

TEST(ForwardQueue, WhatTheWriterWorksOnCountsUntilItIsWritten) {
  ForwardQueue queue(2 * kOneForward);
  EXPECT_EQ(push(queue), Pushed::kTaken);
  EXPECT_EQ(push(queue), Pushed::kTaken);
  EXPECT_EQ(push(queue), Pushed::kFull);
  pop(queue);
  EXPECT_EQ(push(queue), Pushed::kFull);
  queue.written(kOneForward);
  EXPECT_EQ(push(queue), Pushed::kTaken);
}

TEST(ForwardQueue, AForwardLargerThanTheBoundIsTakenAlone) {
  ForwardQueue queue(1);
  EXPECT_EQ(push(queue), Pushed::kTaken);
  EXPECT_EQ(push(queue), Pushed::kFull);
}

TEST(ForwardQueue, AForwardThatCannotBeNumberedIsNotTaken) {
  ForwardQueue queue(kOneForward);
  const auto throws = [](PendingForward&) { throw std::runtime_error("no memory"); };
  EXPECT_THROW(queue.push(std::make_unique<PendingForward>(), WhenFull::kRefuse, throws), std::runtime_error);
  EXPECT_EQ(push(queue, 1), Pushed::kTaken) << "it takes no room";
  EXPECT_EQ(pop(queue), 1);
}

TEST(ForwardQueue, WhoWaitsForRoomGetsIt) {
  ForwardQueue queue(1);
  push(queue, 1);
  std::thread host([&] { EXPECT_EQ(push(queue, 2, WhenFull::kWait), Pushed::kTaken); });
  EXPECT_EQ(pop(queue), 1);
  queue.written(kOneForward);
  host.join();
  EXPECT_EQ(pop(queue), 2);
}

TEST(ForwardQueue, ClosedItTakesNothingAndGivesTheRest) {
  ForwardQueue queue(1);
  push(queue, 1);
  std::thread host([&] { EXPECT_EQ(push(queue, 2, WhenFull::kWait), Pushed::kClosed); });
  queue.close();
  host.join();
  EXPECT_EQ(push(queue), Pushed::kClosed);
  EXPECT_EQ(pop(queue), 1);
  ForwardQueue::Item item;
  EXPECT_EQ(queue.pop(item, std::nullopt), Popped::kClosed);
  EXPECT_NO_THROW(queue.request_flush().get());
}

TEST(ForwardQueue, ADeadlinePassesOnlyWhereNothingIsThere) {
  ForwardQueue queue(1 << 20);
  const auto past = std::chrono::steady_clock::now();
  ForwardQueue::Item item;
  EXPECT_EQ(queue.pop(item, past), Popped::kDeadline);
  push(queue);
  EXPECT_EQ(queue.pop(item, past), Popped::kItem);
}

/// A thread that pops until the queue is closed.
class Writer {
 public:
  explicit Writer(ForwardQueue& queue)
      : thread_([this, &queue] {
          ForwardQueue::Item item;
          while (queue.pop(item, std::nullopt) == Popped::kItem) {
            if (item.forward) indices_.push_back(item.forward->record.index);
            if (item.flush_requested) item.flush_requested->set_value();
            queue.written(item.bytes);
            item = {};
          }
        }) {}
  /// After the queue was closed.
  const std::vector<int64_t>& indices() {
    thread_.join();
    return indices_;
  }

 private:
  std::vector<int64_t> indices_;
  std::thread thread_;
};

void wait_until_it_sleeps(const ForwardQueue& queue) {
  while (!queue.writer_sleeps()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// Until the writer sleeps it has paused this long since it had nothing to do.
constexpr auto kAllPauses = 2 * ForwardQueue::kLastPause - ForwardQueue::kFirstPause;

TEST(ForwardQueue, ForwardsThatFollowEachOtherWakeNobody) {
  ForwardQueue queue(1 << 20);
  Writer writer(queue);
  wait_until_it_sleeps(queue);  // an idle host's does
  int64_t wakes = queue.wakes(), unwoken = 0;
  auto last = std::chrono::steady_clock::now() - kAllPauses;
  for (int64_t index = 0; index < 100; ++index) {
    const auto now = std::chrono::steady_clock::now();
    push(queue, index);
    const bool woken = queue.wakes() > wakes;
    wakes = queue.wakes();
    // Whatever else the machine does: it cannot sleep before.
    EXPECT_TRUE(!woken || std::chrono::steady_clock::now() - last >= kAllPauses) << index;
    unwoken += woken ? 0 : 1;
    last = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_GT(unwoken, 0);
  wait_until_it_sleeps(queue);
  push(queue, 100);
  EXPECT_EQ(queue.wakes(), wakes + 1);
  queue.close();
  std::vector<int64_t> all(101);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(writer.indices(), all);
}

TEST(ForwardQueue, NoneIsLostBetweenPauseAndSleep) {
  ForwardQueue queue(1 << 20);
  Writer writer(queue);
  // Around the moment at which the writer falls asleep. The flush waits for it, and would for ever.
  for (int64_t index = 0; index < 40; ++index) {
    push(queue, index);
    if (index % 2 == 1) queue.request_flush().get();
    std::this_thread::sleep_for(kAllPauses + std::chrono::microseconds(100 * (index % 10) - 200));
  }
  queue.close();
  std::vector<int64_t> all(40);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(writer.indices(), all);
}

TEST(ForwardQueue, AFlushAndAQueueThatFillsUpWakeAtOnce) {
  ForwardQueue queue(4 * kOneForward);
  EXPECT_EQ(push(queue), Pushed::kTaken);
  EXPECT_EQ(queue.wakes(), 0) << "half of it is not reached";
  EXPECT_EQ(push(queue), Pushed::kTaken);
  EXPECT_EQ(queue.wakes(), 1);
  const auto flushed = queue.request_flush();
  EXPECT_EQ(queue.wakes(), 2);
}

TEST(ForwardQueue, ARequestToFlushHasItsPlace) {
  ForwardQueue queue(1 << 20);
  push(queue, 1);
  std::future<void> flushed = queue.request_flush();
  push(queue, 2);
  EXPECT_EQ(pop(queue), 1);
  ForwardQueue::Item item;
  EXPECT_EQ(queue.pop(item, std::nullopt), Popped::kItem);
  ASSERT_TRUE(item.flush_requested);
  EXPECT_EQ(item.forward, nullptr);
  item.flush_requested->set_value();
  EXPECT_NO_THROW(flushed.get());
  EXPECT_EQ(pop(queue), 2);
}

}  // namespace
}  // namespace moetap::plugin
