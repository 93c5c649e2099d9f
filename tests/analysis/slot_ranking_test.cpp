#include "analysis/slot_ranking.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace moetap::analysis {
namespace {

RouterCall ranked_call(std::vector<int64_t> ids, std::vector<float> weights, int64_t top_k) {
  RouterCall call;
  call.num_experts = 4;
  call.selected = at::tensor(ids, at::kLong).view({-1, top_k});
  if (!weights.empty()) call.weights = at::tensor(weights, at::kFloat).view({-1, top_k});
  return call;
}

TEST(SlotRankingTest, FirstSlotHasTheLargestWeight) {
  const RouterCall call =
      ranked_call({3, 1, 2, 0, 2, 1, -1, 3, 9, 9}, {0.2, 0.8, 0.5, 0.5, 0.4, 0.6, 0.9, 0.1, 1, 2}, 2);
  EXPECT_TRUE(at::equal(first_slot(call), at::tensor({1, 0, 1, 3, -1}, at::kLong)));
}

TEST(SlotRankingTest, FirstSlotWithoutWeightsIsTheModels) {
  EXPECT_TRUE(at::equal(first_slot(ranked_call({3, 1, -1, 0, -1, -1}, {}, 2)), at::tensor({3, 0, -1}, at::kLong)));
}

TEST(SlotRankingTest, NaNRanksLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(at::equal(first_slot(ranked_call({0, 1, 2, 3}, {nan, 0.1, 0.1, nan}, 2)), at::tensor({1, 2}, at::kLong)));
}

TEST(SlotRankingTest, MarginIsTheDifferenceOfTheTwoLargest) {
  const at::Tensor margin = token_margin(ranked_call({0, 1, 2, 3, 2, -1}, {0.125, 0.5, 0.25, 0.0, 0.75, 0.5}, 3));
  EXPECT_EQ(margin.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(margin, at::tensor({0.25F, 0.75F})));
}

TEST(SlotRankingTest, MarginNeedsTwoSlotsAndWeights) {
  EXPECT_FALSE(token_margin(ranked_call({0, 1}, {0.5, 0.5}, 1)).defined());
  EXPECT_FALSE(token_margin(ranked_call({0, 1}, {}, 2)).defined());
  RouterCall empty = ranked_call({}, {}, 2);
  empty.weights = at::zeros({0, 2});
  EXPECT_EQ(token_margin(empty).sizes(), at::IntArrayRef{0});
  EXPECT_EQ(first_slot(empty).sizes(), at::IntArrayRef{0});
}

}  // namespace
}  // namespace moetap::analysis
