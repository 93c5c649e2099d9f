#include "plugin/journal/computed_slots.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <random>

namespace moetap::plugin {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNoNumber = std::numeric_limits<float>::quiet_NaN();

analysis::HostRouterCall call_of(const at::Tensor& logits) {
  analysis::HostRouterCall call;
  call.num_tokens = logits.size(0);
  call.num_experts = logits.size(1);
  call.logits = {logits.const_data_ptr(), logits.scalar_type(), logits.stride(0)};
  return call;
}

TEST(CallLogitsTest, GivesEachTokensLogitsAsFloats) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    // Rows that are no neighbours.
    const at::Tensor logits = at::randn({3, 14}).to(dtype).narrow(1, 0, 7);
    const analysis::HostRouterCall call = call_of(logits);
    const auto read = CallLogits::of(call);
    ASSERT_TRUE(read);
    for (int64_t token = 0; token < 3; ++token) {
      const at::Tensor expected = logits[token].to(at::kFloat).contiguous();
      EXPECT_TRUE(std::ranges::equal(read->of_token(token), std::span(expected.const_data_ptr<float>(), 7)));
    }
  }
}

TEST(CallLogitsTest, DoublesAndMissingLogitsTellNothing) {
  const at::Tensor logits = at::randn({1, 4}).to(at::kDouble);
  EXPECT_FALSE(CallLogits::of(call_of(logits)));
  EXPECT_FALSE(CallLogits::of(analysis::HostRouterCall{}));
}

TEST(ComputedSlots, TheLargestComeFirstAndTiesToTheLowerId) {
  const std::vector<float> logits = {1, 3, kNoNumber, 3, -kInfinity, kInfinity};
  EXPECT_EQ(largest_logits(logits, 4), (std::vector<int32_t>{5, 1, 3, 0}));
  EXPECT_EQ(largest_logits(logits, 6), (std::vector<int32_t>{5, 1, 3, 0, -1, -1}));
}

// Of few values, so that many are equal; some ids are exchanged for others.
TEST(ComputedSlots, AreLargestAgreesWithLargestLogits) {
  std::mt19937 random(3);
  const std::vector<float> values = {0.0F, -0.0F, 1.0F, 2.5F, -3.0F, kNoNumber, kInfinity, -kInfinity};
  int64_t largest = 0;
  for (int round = 0; round < 20000; ++round) {
    const size_t num_experts = 1 + random() % 9, top_k = random() % (num_experts + 1);
    const size_t kinds = 1 + random() % values.size();
    std::vector<float> logits(num_experts);
    for (float& logit : logits) logit = values[random() % kinds];
    std::vector<int32_t> ids = largest_logits(logits, static_cast<int64_t>(top_k));
    if (!ids.empty() && random() % 2 == 0) {
      ids[random() % top_k] = static_cast<int32_t>(random() % (num_experts + 1)) - 1;
    }
    const bool expected = largest_logits(logits, static_cast<int64_t>(top_k)) == ids;
    EXPECT_EQ(are_largest(logits, ids), expected);
    largest += expected ? 1 : 0;
  }
  EXPECT_GT(largest, 1000);
  EXPECT_LT(largest, 19000);
}

TEST(ComputedSlots, WeightsAreASoftmaxButForTheLastBits) {
  at::manual_seed(5);
  const at::Tensor logits = at::randn({64});
  const auto all = logits.softmax(0);
  const auto [chosen, ids] = all.topk(8);
  const at::Tensor of_slots = (chosen / chosen.sum()).contiguous(), of_all = chosen.contiguous();
  const at::Tensor ids32 = ids.to(at::kInt).contiguous();
  const std::span<const float> row(logits.const_data_ptr<float>(), 64);
  const std::span<const int32_t> slots(ids32.const_data_ptr<int32_t>(), 8);
  for (const bool over_all : {false, true}) {
    std::vector<float> weights(8);
    ASSERT_TRUE(compute_weights(row, slots, over_all ? SoftmaxOver::kAllExperts : SoftmaxOver::kSlots, weights));
    const float* expected = (over_all ? of_all : of_slots).const_data_ptr<float>();
    for (size_t slot = 0; slot < 8; ++slot) {
      EXPECT_LE(std::abs(std::bit_cast<int32_t>(weights[slot]) - std::bit_cast<int32_t>(expected[slot])), 8) << slot;
    }
  }
}

TEST(ComputedSlots, NoWeightsFromUnusedSlotsOrInfiniteLogits) {
  std::vector<float> weights(2);
  const std::vector<float> logits = {1, 2, 3}, infinite = {1, kInfinity, 3};
  const std::vector<int32_t> ids = {2, 1}, unused = {2, -1};
  EXPECT_TRUE(compute_weights(logits, ids, SoftmaxOver::kSlots, weights));
  EXPECT_FALSE(compute_weights(logits, unused, SoftmaxOver::kSlots, weights));
  EXPECT_FALSE(compute_weights(infinite, ids, SoftmaxOver::kAllExperts, weights));
}

}  // namespace
}  // namespace moetap::plugin
