#include "plugin/session/forward_queue.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

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
