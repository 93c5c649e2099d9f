#include "analysis/routers/transition_sums.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace moetap::analysis {
namespace {

at::Tensor longs(std::vector<int64_t> values) {
  return at::tensor(values, at::kLong);
}

TEST(TransitionSumsTest, CountsTokensFromExpertToExpert) {
  const TransitionSums sums = observe_transition(longs({0, 1, 1, 0, 1}), longs({2, 0, 0, 1, 2}), {}, 2, 3);
  EXPECT_TRUE(at::equal(sums.counts, longs({0, 1, 1, 2, 0, 1}).view({2, 3})));
}

TEST(TransitionSumsTest, LeavesOutMaskedTokensAndTokensWithoutASlot) {
  const TokenRows rows{longs({0, -1, 1, 2, 0, 0}), 2};
  const TransitionSums sums = observe_transition(longs({0, 0, 0, 0, -1, 0}), longs({1, 1, 1, 1, 1, 5}), rows, 1, 2);
  EXPECT_TRUE(at::equal(sums.counts, longs({0, 2}).view({1, 2})));
}

TEST(TransitionSumsTest, NoTokens) {
  const TransitionSums sums = observe_transition(longs({}), longs({}), {}, 2, 2);
  EXPECT_TRUE(at::equal(sums.counts, at::zeros({2, 2}, at::kLong)));
}

TEST(TransitionSumsTest, Merges) {
  TransitionSums total;
  merge(total, observe_transition(longs({0}), longs({1}), {}, 2, 2));
  const TransitionSums second = observe_transition(longs({0, 1}), longs({1, 1}), {}, 2, 2);
  merge(total, second);
  merge(total, TransitionSums{});
  EXPECT_TRUE(at::equal(total.counts, longs({0, 2, 0, 1}).view({2, 2})));
  EXPECT_TRUE(at::equal(second.counts, longs({0, 1, 0, 1}).view({2, 2})));
  EXPECT_THROW(merge(total, observe_transition(longs({0}), longs({1}), {}, 2, 3)), c10::Error);
}

TEST(TransitionSumsTest, RefusesLayersOfOtherTokens) {
  EXPECT_THROW(observe_transition(longs({0, 1}), longs({0}), {}, 2, 2), c10::Error);
  EXPECT_THROW(observe_transition(longs({0}), at::zeros({1}), {}, 2, 2), c10::Error);
  EXPECT_THROW(observe_transition(longs({0}), longs({0}), {}, 0, 2), c10::Error);
}

}  // namespace
}  // namespace moetap::analysis
