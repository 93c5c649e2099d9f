#include "plugin/capture/pending_forward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace moetap::plugin {
namespace {

/// A kind of hook that the forward does not know.
class StubReport final : public PendingReport {
 public:
  int64_t recorded_tokens = 0;

  explicit StubReport(std::vector<at::Tensor> held) : held_(std::move(held)) {}

  void prepare(HostCopies&) override { prepared_ = true; }
  void visit_tensors(Visit visit) override {
    for (at::Tensor& tensor : held_) visit(tensor);
  }
  void finish(ForwardRecord& record) override {
    if (!prepared_) throw std::logic_error("finished before it was prepared");
    record.tokens += 10;
  }
  void recorded(const ForwardRecord& record) override { recorded_tokens = record.tokens; }
  std::unique_ptr<PendingReport> clone() const override { return std::make_unique<StubReport>(*this); }

 private:
  std::vector<at::Tensor> held_;
  bool prepared_ = false;
};

int64_t bytes_of(std::vector<at::Tensor> held, std::vector<PendingValue> values = {}) {
  PendingForward forward;
  forward.reports.push_back(std::make_unique<StubReport>(std::move(held)));
  forward.values = std::move(values);
  forward.start_copies();
  return forward.bytes();
}

TEST(PendingForward, ItsBytesAreThoseOfAllTensorsOfItsReports) {
  const int64_t empty = bytes_of({});
  EXPECT_EQ(bytes_of({at::zeros({1024, 1024}, at::kLong), at::Tensor(), at::zeros({7}, at::kBool)}) - empty,
            (int64_t{8} << 20) + 7);
}

TEST(PendingForward, ItsBytesAreThoseOfTheModelsValuesToo) {
  const int64_t empty = bytes_of({});
  EXPECT_GT(bytes_of({}, {{{"", "0"}, "mean", at::scalar_tensor(1.5)}}), empty);
  PendingForward forward;
  forward.record.custom[{"", "0"}]["x"] = int64_t{1};
  EXPECT_GT(forward.bytes(), PendingForward().bytes());
}

TEST(PendingForward, FinishAsksEachReportAndReadsValues) {
  PendingForward forward;
  for (int i = 0; i < 2; ++i) forward.reports.push_back(std::make_unique<StubReport>(std::vector<at::Tensor>()));
  forward.values = {{{"", "0"}, "mean", at::scalar_tensor(1.5, at::kDouble)},
                    {{"", "0"}, "on", at::scalar_tensor(true, at::kBool)},
                    {{"decoder", "1"}, "count", at::scalar_tensor(3, at::kInt)}};
  forward.start_copies();
  const ForwardRecord record = forward.finish();
  EXPECT_EQ(record.tokens, 20);
  const std::map<std::string, CustomValue> first = {{"mean", 1.5}, {"on", true}}, second = {{"count", int64_t{3}}};
  EXPECT_EQ(record.custom.at({"", "0"}), first);
  EXPECT_EQ(record.custom.at({"decoder", "1"}), second);
  for (const bool is_recorded : {false, true}) {
    if (is_recorded) forward.recorded(record);
    for (const auto& report : forward.reports) {
      EXPECT_EQ(dynamic_cast<const StubReport&>(*report).recorded_tokens, is_recorded ? 20 : 0);
    }
  }
}

TEST(PendingForward, TheTextCountsTheTokensWhereItIsKnown) {
  PendingForward forward;
  forward.reports.push_back(std::make_unique<StubReport>(std::vector<at::Tensor>()));
  forward.text_tokens = at::scalar_tensor(4, at::kLong);
  forward.start_copies();
  EXPECT_EQ(forward.finish().tokens, 4);
}

}  // namespace
}  // namespace moetap::plugin
