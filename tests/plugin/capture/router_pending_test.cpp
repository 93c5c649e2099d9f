#include "plugin/capture/router_pending.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/router_sums.h"
#include "plugin/capture/host_copies.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kExperts = 4;

std::shared_ptr<const ModelDescription> layers(const std::vector<std::string>& components) {
  auto model = std::make_shared<ModelDescription>();
  for (size_t i = 0; i < components.size(); ++i) {
    const auto id = static_cast<int64_t>(i);
    model->hooks.push_back(
        {id, std::to_string(i), "gate", hooks::HookKind::kRouter, "forward", components[i], kExperts, 1, "softmax"});
  }
  return model;
}

std::shared_ptr<TokenGroup> tokens(int64_t number, int64_t num_rows = 1) {
  auto group = std::make_shared<TokenGroup>();
  group->num_tokens = number;
  group->attribution.num_rows = num_rows;
  group->rows.num_rows = num_rows;
  return group;
}

/// A call whose tokens all have `expert` as first slot.
MeasuredRouter measured(int64_t hook, int64_t call, const std::shared_ptr<const TokenGroup>& group, int64_t expert) {
  MeasuredRouter router;
  router.record.hook = hook;
  router.record.call = call;
  router.tokens = group;
  router.record.sums = analysis::empty_router_sums(kExperts, 1, group->rows.num_rows);
  router.record.sums.words[analysis::kTokens] = group->num_tokens;
  router.first_slot = at::full({group->num_tokens}, expert, at::kInt);
  return router;
}

class PendingRoutersTest : public testing::Test {
 protected:
  /// Components of the hooks.
  explicit PendingRoutersTest(const std::vector<std::string>& components = {"a", "a", "b", "a"})
      : routers_(layers(components), probed_, checks_) {}

  ForwardRecord finish(int64_t num_samples = 1) {
    ForwardRecord record;
    record.samples.resize(static_cast<size_t>(num_samples));
    HostCopies copies;
    routers_.prepare(copies);
    routers_.finish(record);
    return record;
  }

  std::shared_ptr<ProbedTokens> probed_ = std::make_shared<ProbedTokens>(4);
  std::shared_ptr<HookChecks> checks_ = std::make_shared<HookChecks>(4);
  PendingRouters routers_;
};

TEST_F(PendingRoutersTest, TransitionsComeFromTheRouterBeforeOfTheComponent) {
  const auto group = tokens(5);
  for (const int64_t hook : {3, 2, 0, 1}) routers_.add(measured(hook, 0, group, hook));  // in any order
  const ForwardRecord record = finish();
  ASSERT_EQ(record.routers.size(), 4u);
  for (size_t hook = 0; hook < 4; ++hook) EXPECT_EQ(record.routers[hook].hook, static_cast<int64_t>(hook));
  ASSERT_EQ(record.transitions.size(), 2u);
  EXPECT_EQ(record.transitions[0].from_hook, 0);
  EXPECT_EQ(record.transitions[0].to_hook, 1);
  EXPECT_EQ(record.transitions[0].sums.counts[0][1].item<int64_t>(), 5);
  EXPECT_EQ(record.transitions[1].from_hook, 1);
  EXPECT_EQ(record.transitions[1].to_hook, 3);
}

TEST_F(PendingRoutersTest, CallsOfALoopFollowEachOtherByCall) {
  const auto group = tokens(2);
  for (const int64_t call : {0, 1}) {
    for (const int64_t hook : {0, 1}) routers_.add(measured(hook, call, group, 2 * call + hook));
  }
  const ForwardRecord record = finish();
  ASSERT_EQ(record.transitions.size(), 2u);
  EXPECT_EQ(record.transitions[0].sums.counts[0][1].item<int64_t>(), 2);
  EXPECT_EQ(record.transitions[1].sums.counts[2][3].item<int64_t>(), 2);
}

TEST_F(PendingRoutersTest, OtherTokensInBetweenEndTheChain) {
  routers_.add(measured(0, 0, tokens(5), 0));
  routers_.add(measured(1, 0, tokens(3), 1));
  routers_.add(measured(3, 0, tokens(5), 2));
  EXPECT_TRUE(finish().transitions.empty());
}

TEST_F(PendingRoutersTest, WhatADeviceCountedFromAnotherRouterIsCountedAgain) {
  const auto group = tokens(5);
  const auto zeros = [](at::IntArrayRef sizes, at::ScalarType dtype) { return at::zeros(sizes, dtype); };
  MeasuredRouter first = measured(0, 0, group, 0), second = measured(1, 0, group, 1), last = measured(3, 0, group, 3);
  for (MeasuredRouter* router : {&first, &second, &last}) router->first_slot_stays = true;
  routers_.add(first);
  const analysis::TransitionFrom transition = routers_.count_transitions(last, zeros);
  ASSERT_TRUE(transition.counts.defined());
  EXPECT_TRUE(transition.first_slot.is_same(first.first_slot));
  routers_.add(last);
  routers_.add(second);  // late
  const ForwardRecord record = finish();
  ASSERT_EQ(record.transitions.size(), 2u);
  EXPECT_EQ(record.transitions[0].sums.counts[0][1].item<int64_t>(), 5);
  EXPECT_EQ(record.transitions[1].from_hook, 1);
  EXPECT_EQ(record.transitions[1].sums.counts[1][3].item<int64_t>(), 5);
}

TEST_F(PendingRoutersTest, RowsOfPaddingAreDropped) {
  auto group = tokens(4);
  group->valid = at::tensor({0, 1, 1, 0}, at::kLong).to(at::kBool);
  group->token_ids = at::tensor({9, 8, 7, 6}, at::kLong);
  MeasuredRouter router = measured(0, 0, group, 0);
  router.record.selected = at::arange(4, at::kInt).reshape({4, 1});
  router.record.weights = at::arange(4, at::kFloat).reshape({4, 1});
  router.record.logits = at::arange(4, at::kFloat).reshape({4, 1}).expand({4, kExperts});
  router.record.margins = at::arange(4, at::kFloat);
  routers_.add(router);
  const RouterRecord record = finish().routers.at(0);
  EXPECT_TRUE(at::equal(record.margins, at::tensor({1.f, 2.f})));
  EXPECT_TRUE(at::equal(record.selected, at::tensor({1, 2}, at::kLong).reshape({2, 1})));
  EXPECT_TRUE(at::equal(record.weights, at::tensor({1.f, 2.f}).reshape({2, 1})));
  EXPECT_EQ(record.logits.size(0), 2);
  EXPECT_TRUE(at::equal(record.token_id, at::tensor({8, 7}, at::kInt)));
  EXPECT_TRUE(at::equal(record.position, at::tensor({1, 2}, at::kInt)));
}

TEST_F(PendingRoutersTest, TheProbeCountsTheTokensThatItGot) {
  auto group = tokens(4);
  group->valid = at::tensor({0, 1, 1, 0}, at::kLong).to(at::kBool);
  MeasuredRouter router = measured(1, 0, group, 0);
  router.record.logits = at::zeros({3, kExperts});
  router.logits_of_first_tokens = true;
  routers_.add(router);
  const ForwardRecord record = finish();
  EXPECT_EQ(record.routers.at(0).logits.size(0), 2);
  EXPECT_EQ(probed_->of(1), 0) << "the record may still be lost";
  routers_.recorded(record);
  EXPECT_EQ(probed_->of(1), 2);
}

TEST_F(PendingRoutersTest, ACallThatIsNotAttributedBelongsToNoSample) {
  auto group = tokens(4);
  group->attribution.attributed = false;
  routers_.add(measured(0, 0, group, 0));
  const ForwardRecord record = finish(2);
  EXPECT_FALSE(record.routers.at(0).attributed);
  EXPECT_TRUE(at::equal(record.routers[0].row, at::full({4}, -1, at::kLong)));
  EXPECT_EQ(record.unattributed, 1);
}

TEST_F(PendingRoutersTest, ItsTensorsAreAllThatItHolds) {
  auto group = tokens(4);
  group->valid = at::ones({4}, at::kBool);
  group->token_ids = at::zeros({4}, at::kLong);
  MeasuredRouter router = measured(0, 0, group, 0);
  router.record.selected = at::zeros({4, 1}, at::kInt);
  router.record.weights = at::zeros({4, 1});
  router.record.logits = at::zeros({4, kExperts});
  router.record.scores = at::zeros({4, kExperts});
  router.record.margins = at::zeros({4});
  router.out_of_range = at::zeros({}, at::kLong);
  router.transition_counts = at::zeros({kExperts, kExperts}, at::kLong);
  const std::vector<at::Tensor> held = {
      router.record.sums.words, router.record.selected, router.record.weights, router.record.logits,
      router.record.scores,     router.record.margins,  router.out_of_range,   router.first_slot,
      router.transition_counts, group->valid,           group->token_ids};
  routers_.add(router);
  MeasuredRouter same_tokens = measured(1, 0, group, 0);
  routers_.add(same_tokens);
  HostCopies copies;
  routers_.prepare(copies);
  std::vector<at::Tensor> visited;
  routers_.visit_tensors([&](at::Tensor& tensor) { visited.push_back(tensor); });
  const auto times = [&](const at::Tensor& tensor) {
    return std::count_if(visited.begin(), visited.end(), [&](const at::Tensor& one) { return one.is_same(tensor); });
  };
  for (const at::Tensor& tensor : held) EXPECT_EQ(times(tensor), 1) << tensor.sizes();
}

TEST_F(PendingRoutersTest, ReplaysBeyondWhatSumsHoldAreRefused) {
  const auto group = tokens(1);
  MeasuredRouter router = measured(0, 0, group, 0);
  router.record.sums.words[analysis::kTokens] = analysis::kMaxTermsPerCall;
  routers_.add(router);
  MeasuredRouter beyond = measured(1, 0, group, 0);
  beyond.record.sums.words[analysis::kTokens] = analysis::kMaxTermsPerCall + 1;
  const auto replays = [](std::unique_ptr<PendingReport> report) {
    ForwardRecord record;
    record.replays = 3;
    report->finish(record);
    return record;
  };
  EXPECT_EQ(replays(routers_.clone()).tokens, analysis::kMaxTermsPerCall);
  routers_.add(beyond);
  EXPECT_THROW(replays(routers_.clone()), c10::Error);
}

TEST(CountsTransitionsOnDevice, WhereTheMatrixIsSmallerThanOneSlotAToken) {
  const c10::Device device(c10::kCUDA, 0);
  EXPECT_FALSE(counts_transitions_on_device(device, 2 * kExperts * kExperts, kExperts));
  EXPECT_TRUE(counts_transitions_on_device(device, 2 * kExperts * kExperts + 1, kExperts));
  EXPECT_FALSE(counts_transitions_on_device(c10::kCPU, 1000, kExperts));
}

}  // namespace
}  // namespace moetap::plugin
