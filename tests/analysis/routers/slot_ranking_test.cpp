#include "analysis/routers/slot_ranking.h"

#include <gtest/gtest.h>

#include "tests/analysis/routers/router_calls.h"

// What ranks first is tested on every path: see token_outputs_test.cpp.
namespace moetap::analysis {
namespace {

TEST(SlotRankingTest, MarginsAreOfTheWeightsAndOfTheirFloats) {
  RouterCall call = slots_call({0, 1, 2, -1}, {0.75, 0.25, 0.5, 0.5}, 2, 4);
  call.weights = call.weights.to(at::kDouble) + at::tensor({1e-12, 0.0, 0.0, 0.0}, at::kDouble).view({2, 2});
  const RankedSlots ranked = rank_slots(call);
  EXPECT_TRUE(at::equal(ranked.margin(), at::tensor({0.75 + 1e-12 - 0.25, 0.5}, at::kDouble)));
  EXPECT_TRUE(at::equal(ranked.recorded_margin(), at::tensor({0.5F, 0.5F})));
}

TEST(SlotRankingTest, MarginNeedsTwoSlotsAndWeights) {
  for (const RouterCall& call : {slots_call({0, 1}, {0.5, 0.5}, 1, 4), slots_call({0, 1}, {}, 2, 4)}) {
    EXPECT_FALSE(rank_slots(call).margin().defined());
    EXPECT_FALSE(rank_slots(call).recorded_margin().defined());
  }
}

TEST(SlotRankingTest, NoTokensAndNoSlots) {
  RouterCall call = slots_call({}, {}, 2, 4);
  EXPECT_EQ(rank_slots(call).first_slot.sizes(), at::IntArrayRef{0});
  call.weights = at::zeros({0, 2});
  EXPECT_EQ(rank_slots(call).recorded_margin().sizes(), at::IntArrayRef{0});
  call.selected = at::zeros({3, 0}, at::kLong);
  call.weights = at::Tensor();
  EXPECT_TRUE(at::equal(rank_slots(call).first_slot, at::full({3}, -1, at::kLong)));
}

TEST(SlotRankingTest, RefusesTensorsThatDoNotFit) {
  RouterCall call = slots_call({0, 1}, {0.5, 0.5}, 2, 4);
  call.weights = at::zeros({1, 3});
  EXPECT_THROW(rank_slots(call), c10::Error);
}

}  // namespace
}  // namespace moetap::analysis
