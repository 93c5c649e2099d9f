// When the writer thread flushes its sink.
#include "plugin/session/writer_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "plugin/session/forward_queue.h"

namespace moetap::plugin {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

struct Seen {
  std::atomic<int> written = 0;
  std::atomic<int> flushed = 0;
  std::atomic<int64_t> dropped = -1;  // as counted before the last flush
};

class SeeingSink final : public RecordSink {
 public:
  explicit SeeingSink(std::shared_ptr<Seen> seen) : seen_(std::move(seen)) {}
  void add_model(std::shared_ptr<const ModelDescription>) override {}
  void write(const ForwardRecord&) override { ++seen_->written; }
  void count(const Counters& counters) override { seen_->dropped = counters.dropped; }
  void flush() override { ++seen_->flushed; }
  void close(const Counters&, const RunTimes&) override {}

 private:
  std::shared_ptr<Seen> seen_;
};

class WriterThreadTest : public ::testing::Test {
 protected:
  WriterThreadTest()
      : writer_(std::make_unique<SeeingSink>(seen_), queue_, [] {
          Counters counters;
          counters.dropped = 7;
          return counters;
        }) {}

  void push() {
    auto forward = std::make_unique<PendingForward>();
    forward->record.model = std::make_shared<const ModelDescription>();
    forward->record.values_only = true;
    queue_.push(std::move(forward), ForwardQueue::WhenFull::kWait, [](PendingForward&) {});
  }

  bool flushed_within(int times, milliseconds limit) const {
    const auto end = steady_clock::now() + limit;
    while (seen_->flushed < times && steady_clock::now() < end) std::this_thread::sleep_for(milliseconds(5));
    return seen_->flushed >= times;
  }

  // For a busy machine.
  static constexpr milliseconds kAtMost = kSyncInterval + milliseconds(3000);

  std::shared_ptr<Seen> seen_ = std::make_shared<Seen>();
  ForwardQueue queue_{1 << 20};
  WriterThread writer_;
};

TEST_F(WriterThreadTest, OneRecordIsFlushedThoughNoneFollows) {
  push();
  EXPECT_TRUE(flushed_within(1, kAtMost));
  EXPECT_EQ(seen_->written, 1);
  EXPECT_EQ(seen_->dropped, 7);
  // Nothing new, nothing to flush.
  EXPECT_FALSE(flushed_within(2, kSyncInterval + milliseconds(300)));
  writer_.finish(RunEnd::kDone);
}

TEST_F(WriterThreadTest, AStreamOfRecordsIsFlushedOnItsWay) {
  const auto end = steady_clock::now() + 2 * kAtMost;
  while (seen_->flushed < 2 && steady_clock::now() < end) {
    push();
    std::this_thread::sleep_for(milliseconds(2));
  }
  EXPECT_GE(seen_->flushed, 2);
  EXPECT_GT(seen_->written, 100);
  writer_.finish(RunEnd::kDone);
}

TEST_F(WriterThreadTest, AHostsFlushIsDoneAtOnce) {
  push();
  const auto before = steady_clock::now();
  queue_.request_flush().get();
  EXPECT_LT(steady_clock::now() - before, kSyncInterval);
  EXPECT_EQ(seen_->flushed, 1);
  writer_.finish(RunEnd::kDone);
}

}  // namespace
}  // namespace moetap::plugin
