#include "analysis/routers/slot_ranking.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "analysis/routers/observe_paths.h"

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

TEST(SlotRankingTest, LoopsAndOperationsAgree) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  // Few values and ids, so that ties, unused slots, ids that are no experts and slots without a finite weight meet.
  const std::vector<float> values = {nan, -infinity, infinity, -0.25F, 0, 0.25F, 0.25F, 0.5F};
  std::mt19937_64 random(5);
  for (const int64_t top_k : {2, 3, 8}) {
    std::vector<int64_t> ids;
    std::vector<float> weights;
    for (int64_t i = 0; i < 500 * top_k; ++i) {
      ids.push_back(static_cast<int64_t>(random() % 7) - 2);
      weights.push_back(values[random() % values.size()]);
    }
    RouterCall call = ranked_call(ids, weights, top_k);
    for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
      call.weights = call.weights.to(dtype);
      EXPECT_TRUE(at::equal(first_slot(call), first_slot_with_operations(call)));
      const at::Tensor margin = weight_margin(call), expected = weight_margin_with_operations(call);
      EXPECT_EQ(margin.scalar_type(), expected.scalar_type());
      EXPECT_TRUE(at::allclose(margin, expected, 0, 0, /*equal_nan=*/true));
      // Views with gaps between the slots.
      RouterCall strided = call;
      strided.selected = at::stack({call.selected, call.selected}, 2).select(2, 1);
      strided.weights = at::stack({call.weights, call.weights}, 2).select(2, 1);
      EXPECT_TRUE(at::equal(first_slot(strided), first_slot(call)));
    }
  }
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
