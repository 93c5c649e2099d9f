#include "analysis/routers/token_outputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "analysis/routers/transition_sums.h"
#include "tests/analysis/routers/router_calls.h"

namespace moetap::analysis {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class TokenOutputsTest : public PathTest {
 protected:
  TokenOutputs outputs_of(const RouterCall& call) const { return observe_all_on(GetParam(), call).outputs; }
};

INSTANTIATE_TEST_SUITE_P(Paths, TokenOutputsTest, all_paths(), path_name);

bool same(const at::Tensor& actual, const at::Tensor& expected) {
  return actual.scalar_type() == expected.scalar_type() && actual.sizes() == expected.sizes() &&
         at::allclose(actual, expected, 0, 0, /*equal_nan=*/true);
}

at::Tensor ints(std::vector<int32_t> values) {
  return at::tensor(values, at::kInt);
}

at::Tensor floats(std::vector<float> values) {
  return at::tensor(values, at::kFloat);
}

TEST_P(TokenOutputsTest, FirstSlotHasTheLargestWeight) {
  const RouterCall call =
      slots_call({3, 1, 2, 0, 2, 1, -1, 3, 9, 9}, {0.2, 0.8, 0.5, 0.5, 0.4, 0.6, 0.9, 0.1, 1, 2}, 2, 4);
  EXPECT_TRUE(same(outputs_of(call).first_slot, ints({1, 0, 1, 3, -1})));
}

TEST_P(TokenOutputsTest, FirstSlotWithoutWeightsIsTheModels) {
  const TokenOutputs outputs = outputs_of(slots_call({3, 1, -1, 0, -1, -1}, {}, 2, 4));
  EXPECT_TRUE(same(outputs.first_slot, ints({3, 0, -1})));
  EXPECT_TRUE(same(outputs.weights, at::full({3, 2}, 77.0F))) << "not written";
  EXPECT_TRUE(same(outputs.margins, floats({77, 77, 77}))) << "not written";
}

TEST_P(TokenOutputsTest, NaNRanksLast) {
  const TokenOutputs outputs = outputs_of(slots_call({0, 1, 2, 3}, {kNaN, 0.1, 0.1, kNaN}, 2, 4));
  EXPECT_TRUE(same(outputs.first_slot, ints({1, 2})));
  EXPECT_TRUE(same(outputs.margins, floats({kInfinity, kInfinity})));
}

TEST_P(TokenOutputsTest, MarginIsTheDifferenceOfTheTwoLargestWeights) {
  const RouterCall call =
      slots_call({0, 1, 2, 3, 2, -1, -1, 9, -1}, {0.125, 0.5, 0.25, 0.0, 0.75, 0.5, 0.5, 0.5, 0.5}, 3, 4);
  EXPECT_TRUE(same(outputs_of(call).margins, floats({0.25, 0.75, 0}))) << "0 for a slot that holds no expert";
}

TEST_P(TokenOutputsTest, MarginsNeedTwoSlots) {
  EXPECT_TRUE(same(outputs_of(slots_call({0, 1}, {0.5, 0.5}, 1, 4)).margins, floats({77, 77}))) << "not written";
}

TEST_P(TokenOutputsTest, IdsThatAreNoExpertBecomeMinusOne) {
  const TokenOutputs outputs = outputs_of(slots_call({3, 1, -7, 4}, {0.5, 0.25, 1, 2}, 2, 4));
  EXPECT_TRUE(same(outputs.selected, ints({3, 1, -1, -1}).view({2, 2})));
  EXPECT_TRUE(same(outputs.weights, floats({0.5, 0.25, 1, 2}).view({2, 2})));
}

TEST_P(TokenOutputsTest, NoTokens) {
  RouterCall call = random_call({0, 4, 2}, 1);
  const Observed observed = observe_all_on(GetParam(), call, {}, {at::zeros({0}, at::kInt), 3});
  EXPECT_EQ(observed.outputs.margins.numel(), 0);
  EXPECT_TRUE(at::equal(observed.transitions, at::zeros({3, 4}, at::kLong)));
}

/// What one token gives, written from the definition.
struct ExpectedToken {
  int32_t first_slot = -1;
  float margin = 0;
};

ExpectedToken expected_token(const std::vector<int64_t>& ids, const std::vector<double>& weights, int64_t num_experts) {
  struct Slot {
    double rank;
    int64_t id;
  };
  std::vector<Slot> slots;
  for (size_t slot = 0; slot < ids.size(); ++slot) {
    if (ids[slot] < 0 || ids[slot] >= num_experts) continue;
    slots.push_back({std::isnan(weights[slot]) ? -kInfinity : weights[slot], ids[slot]});
  }
  if (slots.empty()) return {};
  std::sort(slots.begin(), slots.end(),
            [](const Slot& a, const Slot& b) { return a.rank != b.rank ? a.rank > b.rank : a.id < b.id; });
  const auto largest = static_cast<float>(slots[0].rank);
  const float second = slots.size() > 1 ? static_cast<float>(slots[1].rank) : 0;
  return {static_cast<int32_t>(slots[0].id), static_cast<float>(static_cast<double>(largest) - second)};
}

TEST_P(TokenOutputsTest, RandomSlotsAgreeWithTheDefinition) {
  // Few values and ids, so that ties, unused slots, ids that are no experts and weights that are not finite meet.
  const std::vector<float> values = {kNaN, -kInfinity, kInfinity, -0.25F, 0, 0.25F, 0.25F, 0.3F};
  std::mt19937_64 random(5);
  for (const int64_t top_k : {2, 3, 8}) {
    constexpr int64_t kTokens = 500;
    std::vector<int64_t> ids;
    std::vector<float> weights;
    for (int64_t i = 0; i < kTokens * top_k; ++i) {
      ids.push_back(static_cast<int64_t>(random() % 7) - 2);
      weights.push_back(values[random() % values.size()]);
    }
    RouterCall call = slots_call(ids, weights, top_k, 4);
    for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
      call.weights = call.weights.to(dtype);
      if (dtype == at::kDouble) call.weights = call.weights * (1 + 1e-12);  // no number of float32
      const at::Tensor doubles = call.weights.to(at::kDouble);
      std::vector<int32_t> first_slots;
      std::vector<float> margins;
      for (int64_t token = 0; token < kTokens; ++token) {
        const auto at = [&](int64_t slot) { return token * top_k + slot; };
        const double* begin = doubles.const_data_ptr<double>() + at(0);
        const ExpectedToken expected =
            expected_token({ids.begin() + at(0), ids.begin() + at(top_k)}, {begin, begin + top_k}, call.num_experts);
        first_slots.push_back(expected.first_slot);
        margins.push_back(expected.margin);
      }
      const TokenOutputs outputs = outputs_of(call);
      EXPECT_TRUE(same(outputs.first_slot, ints(first_slots))) << dtype << " K " << top_k;
      EXPECT_TRUE(same(outputs.margins, floats(margins))) << dtype << " K " << top_k;
      EXPECT_TRUE(same(outputs.weights, call.weights.to(at::kFloat))) << dtype << " K " << top_k;
      // Views with gaps between the slots.
      RouterCall strided = call;
      strided.selected = at::stack({call.selected, call.selected}, 2).select(2, 1);
      strided.weights = at::stack({call.weights, call.weights}, 2).select(2, 1);
      EXPECT_TRUE(same(outputs_of(strided).margins, outputs.margins)) << dtype << " K " << top_k;
    }
  }
}

TEST_P(TokenOutputsTest, TransitionsAreCountedOfValidTokens) {
  const RouterCall call = slots_call({0, 1, 2, 0, -1, 2}, {}, 1, 3);
  const SlotsBefore before{ints({1, 1, -1, 2, 0, 0}), 2};  // -1: no slot; 2: no expert of the router before
  const Observed observed = observe_all_on(GetParam(), call, rows_of({0, 1, 0, 0, 0, -1}, 2), before);
  EXPECT_TRUE(at::equal(observed.transitions, at::tensor({0, 0, 0, 1, 1, 0}, at::kLong).view({2, 3})));
}

TEST_P(TokenOutputsTest, TransitionsAreThoseOfTransitionSums) {
  const RouterCall before = random_call({300, 5, 2}, 2), call = random_call({300, 7, 3}, 3);
  const TokenRows rows{{}, 2, RowOrder::kInterleaved, at::rand({300}).gt(0.3)};
  const at::Tensor from = observe_all_on(Path::kReference, before).outputs.first_slot;
  const at::Tensor to = observe_all_on(Path::kReference, call).outputs.first_slot;
  EXPECT_TRUE(at::equal(observe_all_on(GetParam(), call, rows, {from, 5}).transitions,
                        observe_transition(from.to(at::kLong), to.to(at::kLong), rows, 5, 7).counts));
}

TEST(TokenOutputsCheckTest, ErrorsNameTheTensor) {
  const RouterCall call = random_call({4, 6, 2}, 17);
  RouterSums sums = empty_router_sums(6, 2, 1);
  const auto error_of = [&](const TokenOutputs& outputs, const TransitionFrom& transition) -> std::string {
    try {
      observe_into(sums, call, {}, outputs, transition);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "";
  };
  const auto expect = [&](const std::string& error, const char* part) {
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  expect(error_of({at::zeros({4, 2}, at::kLong), {}, {}, {}}, {}), "selected must be contiguous Int [4, 2]");
  expect(error_of({{}, at::zeros({2, 4}).t(), {}, {}}, {}), "weights must be contiguous Float [4, 2]");
  expect(error_of({{}, {}, at::zeros({5}, at::kInt), {}}, {}), "first_slot must be contiguous Int [4]");
  expect(error_of({{}, {}, {}, at::zeros({4}, at::kDouble)}, {}), "margins must be contiguous Float [4]");
  expect(error_of({}, {at::zeros({4}, at::kInt), {}}), "transitions need counts");
  expect(error_of({}, {at::zeros({4}, at::kInt), at::zeros({3, 5}, at::kLong)}), "counts of transitions must be");
}

}  // namespace
}  // namespace moetap::analysis
