#include "plugin/capture/graph_replays.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/support/fake_device.h"
#include "tests/support/fake_operators.h"

namespace moetap::plugin {
namespace {

using fake_device::kType;

/// Two numbers that replays add to.
class StubReport final : public PendingReport {
 public:
  StubReport(at::Tensor first, at::Tensor second, std::shared_ptr<bool> fails)
      : tensors_{std::move(first), std::move(second), {}}, fails_(std::move(fails)) {}
  void visit_tensors(Visit visit) override {
    for (at::Tensor& tensor : tensors_) visit(tensor);
  }
  void finish(ForwardRecord& record) override {
    record.tokens = tensors_[0].item<int64_t>();
    record.out_of_range = tensors_[1].item<int64_t>();
  }
  std::unique_ptr<PendingReport> clone() const override {
    if (*fails_) throw std::runtime_error("no memory");
    return std::make_unique<StubReport>(*this);
  }

 private:
  at::Tensor tensors_[3];
  std::shared_ptr<bool> fails_;
};

class GraphReplaysTest : public testing::Test {
 protected:
  GraphReplaysTest() {
    fake_device::install();
    fake_device::set_eager(true);
    replays_ = GraphReplays::begin(std::make_shared<ModelDescription>(), "forward", /*generation=*/true);
    fake_device::begin_capture();
    // Two reports: one must not be taken without the other.
    for (std::array<at::Tensor, 2>& sums : sums_) {
      for (at::Tensor& sum : sums) sum = replays_->zeros({kType, 0}, {1}, at::kLong);
    }
    std::vector<std::unique_ptr<PendingReport>> reports;
    reports.push_back(std::make_unique<StubReport>(sums_[0][0], sums_[0][1], std::make_shared<bool>(false)));
    reports.push_back(std::make_unique<StubReport>(sums_[1][0], sums_[1][1], second_fails_));
    replays_->end(std::move(reports));
    count_ = fake_device::end_capture();
  }
  ~GraphReplaysTest() override { fake_device::set_eager(false); }

  /// One replay, which adds to all four.
  void replay(int64_t number) {
    count_();
    for (const auto& sums : sums_) {
      for (const at::Tensor& sum : sums) fake_device::on_cpu(sum).add_(number);
    }
  }

  std::shared_ptr<GraphReplays> replays_;
  std::array<std::array<at::Tensor, 2>, 2> sums_;
  std::shared_ptr<bool> second_fails_ = std::make_shared<bool>(false);
  std::function<void()> count_;
};

TEST_F(GraphReplaysTest, EachFlushTakesWhatWasAddedSince) {
  EXPECT_EQ(replays_->take_new(), nullptr);
  replay(5);
  replay(6);
  auto forward = replays_->take_new();
  ASSERT_NE(forward, nullptr);
  EXPECT_EQ(forward->record.replays, 2);
  EXPECT_TRUE(forward->record.generation);
  EXPECT_EQ(forward->record.num_forwards(), 2);
  replay(100);  // while it waits
  const ForwardRecord first = forward->finish();
  EXPECT_EQ(first.tokens, 11);
  EXPECT_EQ(first.out_of_range, 11);
  forward = replays_->take_new();
  ASSERT_NE(forward, nullptr);
  EXPECT_EQ(forward->finish().tokens, 100);
  EXPECT_EQ(replays_->take_new(), nullptr);
}

TEST_F(GraphReplaysTest, AllOrNothingIsTaken) {
  replay(5);
  *second_fails_ = true;
  EXPECT_THROW(replays_->take_new(), std::runtime_error);
  *second_fails_ = false;
  replay(6);
  const auto forward = replays_->take_new();
  ASSERT_NE(forward, nullptr);
  EXPECT_EQ(forward->record.replays, 2);
  for (const auto& report : forward->reports) {
    ForwardRecord record;
    report->finish(record);
    EXPECT_EQ(record.tokens, 11);
    EXPECT_EQ(record.out_of_range, 11);
  }
}

TEST_F(GraphReplaysTest, MustBeCapturedToItsEnd) {
  const auto other = GraphReplays::begin(std::make_shared<ModelDescription>(), "forward", false);
  EXPECT_THROW(other->end({}), c10::Error) << "nothing was captured";
  other->zeros({kType, 0}, {1}, at::kLong);
  EXPECT_THROW(other->end({}), c10::Error) << "no graph is being captured";
  EXPECT_EQ(other->take_new(), nullptr);
}

}  // namespace
}  // namespace moetap::plugin
