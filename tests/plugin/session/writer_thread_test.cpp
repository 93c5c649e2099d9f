// When the writer thread flushes its sink, and what an error costs.
#include "plugin/session/writer_thread.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "plugin/session/forward_queue.h"

namespace moetap::plugin {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

struct Seen {
  std::atomic<int> written = 0;
  std::atomic<int> flushed = 0;
  std::atomic<int64_t> dropped = -1;  // as counted before the last flush
  std::atomic<int> models = 0;
  int closed = 0;
  // Called by `write`, and by `add_model`; may throw.
  std::function<void(const ForwardRecord&)> on_write = [](const ForwardRecord&) {};
  std::function<void()> on_model = [] {};
  std::function<void()> on_begin = [] {}, on_end = [] {};  // of a batch
};

class SeeingSink final : public RecordSink {
 public:
  explicit SeeingSink(std::shared_ptr<Seen> seen) : seen_(std::move(seen)) {}
  void add_model(std::shared_ptr<const ModelDescription>) override {
    seen_->on_model();
    ++seen_->models;
  }
  void write(const ForwardRecord& record) override {
    seen_->on_write(record);
    ++seen_->written;
  }
  void begin_batch() override { seen_->on_begin(); }
  void end_batch() override { seen_->on_end(); }
  void count(const Counters& counters) override { seen_->dropped = counters.dropped; }
  void flush() override { ++seen_->flushed; }
  void close(const Counters&, const RunTimes&) override { ++seen_->closed; }

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

  /// A forward, not only values.
  void push_forward(int64_t index, std::vector<PendingValue> values = {}) {
    push_forward(index, std::move(values), queue_);
  }
  static void push_forward(int64_t index, std::vector<PendingValue> values, ForwardQueue& queue) {
    auto forward = std::make_unique<PendingForward>();
    forward->record.model = std::make_shared<const ModelDescription>();
    forward->record.index = index;
    forward->record.tokens = 10;
    forward->record.out_of_range = 2;
    forward->record.unattributed = 1;
    forward->values = std::move(values);
    queue.push(std::move(forward), ForwardQueue::WhenFull::kWait, [](PendingForward&) {});
  }

  Counters counted() const {
    Counters counters;
    writer_.add_to(counters);
    return counters;
  }

  bool flushed_within(int times, milliseconds limit) const {
    const auto end = steady_clock::now() + limit;
    while (seen_->flushed < times && steady_clock::now() < end) std::this_thread::sleep_for(milliseconds(5));
    return seen_->flushed >= times;
  }

  // Enough for a busy machine.
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

const std::map<std::string, int64_t> kTwoLost = {{"a forward could not be recorded, the next ones are", 2}};

TEST_F(WriterThreadTest, ARecordThatTheSinkRefusesIsLostAlone) {
  seen_->on_write = [](const ForwardRecord& record) {
    if (record.index % 2 == 1) throw RecordError("a frame may have 4 GiB, got more");
  };
  testing::internal::CaptureStderr();
  for (int64_t index = 0; index < 5; ++index) push_forward(index);
  writer_.finish(RunEnd::kDone);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: a forward could not be recorded, the next ones are: a frame may have 4 GiB, got more\n");
  EXPECT_EQ(seen_->written, 3);
  EXPECT_EQ(counted().unwritten, 2);
  EXPECT_EQ(counted().tokens, 30);
  EXPECT_EQ(counted().out_of_range, 6);
  EXPECT_EQ(counted().unattributed, 3);
  EXPECT_EQ(counted().notices, kTwoLost);
  EXPECT_FALSE(writer_.error());
  EXPECT_EQ(seen_->closed, 1);
}

TEST_F(WriterThreadTest, AForwardThatCannotBeFinishedIsLostAlone) {
  const PendingValue not_a_number{{"", "0"}, "x", at::ones({2})};
  testing::internal::CaptureStderr();
  for (int64_t index = 0; index < 4; ++index) {
    push_forward(index, index < 2 ? std::vector{not_a_number} : std::vector<PendingValue>());
  }
  writer_.finish(RunEnd::kDone);
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(seen_->written, 2);
  EXPECT_EQ(counted().unwritten, 2);
  EXPECT_EQ(counted().notices, kTwoLost);
  EXPECT_FALSE(writer_.error());
}

TEST_F(WriterThreadTest, ReplaysThatCannotBeFinishedAreAllCounted) {
  auto forward = std::make_unique<PendingForward>();
  forward->record.model = std::make_shared<const ModelDescription>();
  forward->record.replays = 5;
  forward->values = {{{"", "0"}, "x", at::ones({2})}};
  testing::internal::CaptureStderr();
  queue_.push(std::move(forward), ForwardQueue::WhenFull::kWait, [](PendingForward&) {});
  writer_.finish(RunEnd::kDone);
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(counted().unwritten, 5);
  EXPECT_EQ(seen_->written, 0);
}

TEST_F(WriterThreadTest, AModelThatTheSinkRefusesIsOfferedAgain) {
  int offered = 0;
  seen_->on_model = [&] {
    if (++offered == 1) throw RecordError("layer 99999999999999999999 is too large");
  };
  testing::internal::CaptureStderr();
  for (int64_t index = 0; index < 3; ++index) push_forward(index);
  writer_.finish(RunEnd::kDone);
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(offered, 2);
  EXPECT_EQ(seen_->models, 1);
  EXPECT_EQ(seen_->written, 2);
  EXPECT_EQ(counted().unwritten, 1);
}

// Its records count as written only once it is.
TEST_F(WriterThreadTest, ABatchThatCannotBeWrittenIsLostAsAWhole) {
  for (const bool at_its_begin : {false, true}) {
    const auto seen = std::make_shared<Seen>();
    (at_its_begin ? seen->on_begin : seen->on_end) = [] { throw std::runtime_error("journal.bin: no space left"); };
    ForwardQueue queue(1 << 20);
    WriterThread writer(std::make_unique<SeeingSink>(seen), queue, [] { return Counters(); });
    testing::internal::CaptureStderr();
    for (int64_t index = 0; index < 3; ++index) push_forward(index, {}, queue);
    writer.finish(RunEnd::kDone);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "moetap: journal.bin: no space left; nothing more is recorded, the model runs on\n");
    Counters counters;
    writer.add_to(counters);
    EXPECT_EQ(counters.unwritten, 3);
    EXPECT_EQ(counters.tokens, 0);
    EXPECT_EQ(seen->closed, 1);
  }
}

TEST_F(WriterThreadTest, AnErrorOfTheDiskEndsTheRecording) {
  seen_->on_write = [](const ForwardRecord& record) {
    if (record.index == 1) throw std::runtime_error("journal.bin: no space left on device");
  };
  testing::internal::CaptureStderr();
  for (int64_t index = 0; index < 4; ++index) push_forward(index);
  writer_.finish(RunEnd::kDone);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: journal.bin: no space left on device; nothing more is recorded, the model runs on\n");
  EXPECT_EQ(writer_.error(), "journal.bin: no space left on device");
  EXPECT_EQ(seen_->written, 1);
  EXPECT_EQ(counted().unwritten, 3);
  EXPECT_EQ(counted().tokens, 10);
  EXPECT_TRUE(counted().notices.empty());
  EXPECT_EQ(seen_->closed, 1);
}

}  // namespace
}  // namespace moetap::plugin
