// The router kernel against the reference of the CPU, emulated and on a device.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "analysis/numbers/fixed_point.h"
#include "tests/analysis/routers/router_calls.h"

namespace moetap::analysis {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class RouterKernelTest : public PathTest {
 protected:
  void expect_as_reference(const RouterCall& call, const TokenRows& rows) const;
};

INSTANTIATE_TEST_SUITE_P(Paths, RouterKernelTest, testing::Values(Path::kEmulatedKernel, Path::kCuda), path_name);

bool is_valid(const TokenRows& rows, int64_t token) {
  if (rows.row.defined()) {
    const int64_t row = rows.row[token].item<int64_t>();
    return row >= 0 && row < rows.num_rows;
  }
  return !rows.valid.defined() || rows.valid[token].item<bool>();
}

/// Counts are the same; sums of reals to 1e-6 of their value, entropies also to 1e-12 a token.
void expect_same_sums(const RouterSums& actual, const RouterSums& expected) {
  ASSERT_EQ(actual.words.numel(), expected.words.numel());
  const RouterSumsLayout layout = expected.layout();
  const auto* got = actual.words.const_data_ptr<int64_t>();
  const auto* want = expected.words.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < expected.num_rows; ++row, got += layout.row_words(), want += layout.row_words()) {
    const auto tokens = static_cast<double>(want[kTokens]);
    const auto expect_near = [&](int64_t high, int64_t low, const std::string& what) {
      const double a = to_double({got[high], got[low]}), b = to_double({want[high], want[low]});
      // A term is rounded to units of 2^-40.
      EXPECT_NEAR(a, b, 1e-6 * std::abs(b) + tokens * 2e-12) << what << ", row " << row;
    };
    for (int64_t i = 0; i < kNumRowCounters; ++i) EXPECT_EQ(got[i], want[i]) << "counter " << i << ", row " << row;
    for (int64_t which = 0; which < kNumScalarSums; ++which) {
      const int64_t sum = RouterSumsLayout::scalar_sum(static_cast<RowScalarSum>(which));
      EXPECT_EQ(got[sum + kTermsAdded], want[sum + kTermsAdded]) << "terms of " << which << ", row " << row;
      EXPECT_EQ(got[sum + kTermsOutOfRange], want[sum + kTermsOutOfRange]) << "terms of " << which << ", row " << row;
      expect_near(sum + kHighLimb, sum + kLowLimb, "scalar sum " + std::to_string(which));
    }
    for (int64_t e = 0; e < layout.num_experts; ++e) {
      for (const RowVector which : {kSelected, kZeroWeight, kTopProbability, kFirstSlot}) {
        EXPECT_EQ(got[layout.vector(which) + e], want[layout.vector(which) + e])
            << "vector " << which << "[" << e << "]";
      }
      expect_near(layout.vector(kProbabilityHigh) + e, layout.vector(kProbabilityLow) + e,
                  "probability " + std::to_string(e));
      expect_near(layout.vector(kWeightHigh) + e, layout.vector(kWeightLow) + e, "weight " + std::to_string(e));
    }
  }
  for (int64_t i = 0; i < layout.pair_words(); ++i) EXPECT_EQ(got[i], want[i]) << "pair " << i;
}

/// The rows of valid tokens.
at::Tensor of_valid_tokens(const at::Tensor& values, const TokenRows& rows) {
  std::vector<int64_t> valid;
  for (int64_t token = 0; token < values.size(0); ++token) {
    if (is_valid(rows, token)) valid.push_back(token);
  }
  return values.index_select(0, at::tensor(valid, at::kLong));
}

/// Everything that a call gives is what the reference gives.
void RouterKernelTest::expect_as_reference(const RouterCall& call, const TokenRows& rows) const {
  constexpr int64_t kExpertsBefore = 3;
  const at::Tensor first_before =
      at::arange(call.selected.size(0), at::kInt).remainder(kExpertsBefore + 1).sub(1);  // -1 too
  const SlotsBefore before{first_before, kExpertsBefore};
  const Observed given = observe_all_on(GetParam(), call, rows, before);
  const Observed expected = observe_all_on(Path::kReference, call, rows, before);
  expect_same_sums(given.sums, expected.sums);
  EXPECT_TRUE(at::equal(given.transitions, expected.transitions));
  const auto expect_same = [&](const char* name, const at::Tensor& got, const at::Tensor& want) {
    EXPECT_TRUE(at::allclose(of_valid_tokens(got, rows), of_valid_tokens(want, rows), 0, 0, /*equal_nan=*/true))
        << name;
  };
  expect_same("selected", given.outputs.selected, expected.outputs.selected);
  expect_same("weights", given.outputs.weights, expected.outputs.weights);
  expect_same("first slots", given.outputs.first_slot, expected.outputs.first_slot);
  expect_same("margins", given.outputs.margins, expected.outputs.margins);
}

#define EXPECT_AS_REFERENCE(call, rows) \
  do {                                  \
    SCOPED_TRACE(#call ", " #rows);     \
    expect_as_reference(call, rows);    \
  } while (false)

TEST_P(RouterKernelTest, NumbersOfExpertsSlotsAndTokens) {
  for (const int64_t num_experts : {1, 2, 5, 31, 32, 33, 60, 64, 65, 128, 160, 256, 257, 512, 1000, 1024}) {
    for (const int64_t top_k : {1, 2, 8, 32}) {
      if (top_k > num_experts) continue;
      for (const int64_t num_tokens : {0, 1, 2, 37}) {
        SCOPED_TRACE("T " + std::to_string(num_tokens) + " E " + std::to_string(num_experts) + " K " +
                     std::to_string(top_k));
        const RouterCall call = random_call({num_tokens, num_experts, top_k}, 1);
        EXPECT_AS_REFERENCE(call, TokenRows{});
      }
    }
  }
}

TEST_P(RouterKernelTest, AllExpertsOfEachToken) {
  for (const int64_t num_experts : {4, 31, 32}) {
    const RouterCall call = random_call({19, num_experts, num_experts}, 2);
    EXPECT_AS_REFERENCE(call, TokenRows{});
  }
}

TEST_P(RouterKernelTest, Types) {
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kDouble}) {
    const RouterCall call = random_call({23, 40, 4}, 3, dtype);
    EXPECT_AS_REFERENCE(call, TokenRows{});
  }
}

TEST_P(RouterKernelTest, Strides) {
  RouterCall call = random_call({30, 36, 4}, 4);
  call.logits = call.logits.t().contiguous().t();
  call.selected = at::cat({call.selected, call.selected}, 1).slice(1, 0, 8, 2).contiguous().t().contiguous().t();
  call.weights = at::stack({call.weights, call.weights}, 2).select(2, 1);
  EXPECT_AS_REFERENCE(call, TokenRows{});
  RouterCall repeated = random_call({30, 36, 4}, 5);
  repeated.logits = repeated.logits.narrow(0, 0, 1).expand({30, 36});
  EXPECT_AS_REFERENCE(repeated, TokenRows{});
  RouterCall sliced = random_call({60, 36, 4}, 6);
  sliced.logits = sliced.logits.slice(0, 0, 60, 2);
  sliced.selected = sliced.selected.slice(0, 0, 60, 2);
  sliced.weights = sliced.weights.slice(0, 0, 60, 2);
  EXPECT_AS_REFERENCE(sliced, TokenRows{});
}

TEST_P(RouterKernelTest, LogitsThatAreUnusual) {
  RouterCall call = random_call({12, 40, 2}, 7);
  call.logits[0].fill_(0);           // ties
  call.logits[1].fill_(-kInfinity);  // no distribution
  call.logits[2].fill_(-kInfinity);
  call.logits[2][39].fill_(3);  // one expert only
  call.logits[3][17].fill_(kNaN);
  call.logits[4][0].fill_(kInfinity);
  call.logits[5][33].fill_(-kInfinity);  // a masked expert
  call.logits[6].mul_(1e4);
  call.logits[7].fill_(1e38);
  call.logits[8][5].fill_(40);  // one expert nearly certain
  call.logits[9].mul_(1e-30);
  EXPECT_AS_REFERENCE(call, TokenRows{});
  for (int64_t token = 0; token < 12; ++token) {  // so that no other token hides what one gives
    const RouterCall alone = take(call, {token});
    EXPECT_AS_REFERENCE(alone, TokenRows{});
  }
}

TEST_P(RouterKernelTest, SmallEntropiesKeepTheirRelativeAccuracy) {
  for (const int gap : {1, 5, 10, 15, 18, 20, 22}) {
    RouterCall call = random_call({1, 40, 2}, 18);
    call.logits.zero_();
    call.logits[0][7].fill_(gap);
    SCOPED_TRACE(gap);
    EXPECT_AS_REFERENCE(call, TokenRows{});
  }
}

TEST_P(RouterKernelTest, SlotsThatAreUnusual) {
  RouterCall call = random_call({10, 40, 4}, 8);
  call.selected[0][1].fill_(-1);
  call.selected[1].fill_(-1);
  call.selected[2][0].fill_(40);
  call.selected[2][3].fill_(std::numeric_limits<int64_t>::min());
  call.selected[3].fill_(7);    // one expert in all slots
  call.weights[4].fill_(0.25);  // ties
  call.weights[5][2].fill_(0);
  call.weights[6].fill_(0);
  call.weights[7][0].fill_(kNaN);
  call.weights[8][1].fill_(kInfinity);
  call.weights[9][3].fill_(-0.5);
  EXPECT_AS_REFERENCE(call, TokenRows{});
  for (int64_t token = 0; token < 10; ++token) {
    const RouterCall alone = take(call, {token});
    EXPECT_AS_REFERENCE(alone, TokenRows{});
  }
  RouterCall unweighted = call;
  unweighted.weights = at::Tensor();
  EXPECT_AS_REFERENCE(unweighted, TokenRows{});
}

TEST_P(RouterKernelTest, ManyTokensOfFewExperts) {
  for (const int64_t num_experts : {3, 8, 64}) {  // whose pairs are counted for several tokens at once
    RouterCall call = random_call({200, num_experts, 3}, 19);
    call.selected = at::randint(-1, num_experts, {200, 3}, at::kLong);  // experts twice, and slots without one
    call.weights = call.weights.mul(at::randint(-3, 4, {200, 3})).mul(1.7);
    EXPECT_AS_REFERENCE(call, TokenRows{});
    const TokenRows in_turn{{}, 5, RowOrder::kInterleaved};
    EXPECT_AS_REFERENCE(call, in_turn);
  }
}

TEST_P(RouterKernelTest, AllTokensToOneExpert) {
  RouterCall call = random_call({300, 8, 1}, 9);
  call.selected.fill_(5);
  EXPECT_AS_REFERENCE(call, TokenRows{});
}

TEST_P(RouterKernelTest, ProbabilitiesAndScores) {
  RouterCall call = random_call({20, 70, 4}, 10);
  call.scores = call.logits.sigmoid();
  call.sigmoid_scores = true;
  EXPECT_AS_REFERENCE(call, TokenRows{});
  RouterCall of_logits = call;
  of_logits.scores = at::Tensor();
  EXPECT_AS_REFERENCE(of_logits, TokenRows{});
  RouterCall given = call;
  given.probabilities = call.logits.softmax(1).mul(0.5);
  given.probabilities[1].fill_(0);
  given.probabilities[2][3].fill_(-0.1);
  given.probabilities[3][69].fill_(2.5);
  given.probabilities[4][0].fill_(kNaN);
  EXPECT_AS_REFERENCE(given, TokenRows{});
  RouterCall alone = given;
  alone.logits = at::Tensor();
  EXPECT_AS_REFERENCE(alone, TokenRows{});
}

TEST_P(RouterKernelTest, RowsInEveryOrder) {
  const RouterCall call = random_call({120, 33, 3}, 11);
  const at::Tensor valid = at::rand({120}).gt(0.4);
  for (const auto order : {RowOrder::kRowByRow, RowOrder::kInterleaved}) {
    for (const int64_t num_rows : {1, 2, 5, 120}) {
      for (const at::Tensor& mask : {at::Tensor(), valid, at::zeros({120}, at::kBool)}) {
        const TokenRows rows{{}, num_rows, order, mask};
        EXPECT_AS_REFERENCE(call, rows);
      }
    }
  }
  const TokenRows any{at::randint(-1, 4, {120}, at::kLong), 3};
  EXPECT_AS_REFERENCE(call, any);
  const TokenRows strided{at::stack({any.row, any.row}, 1).select(1, 0), 3};
  EXPECT_AS_REFERENCE(call, strided);
}

TEST_P(RouterKernelTest, LongGapsBetweenNeighbours) {
  const RouterCall call = random_call({200, 4, 2}, 12);
  at::Tensor valid = at::zeros({200}, at::kBool);
  for (const int64_t token : {3, 4, 100, 199}) valid[token].fill_(true);
  const TokenRows rows{{}, 1, RowOrder::kRowByRow, valid};
  EXPECT_AS_REFERENCE(call, rows);
}

TEST_P(RouterKernelTest, ManyTokens) {
  const RouterCall call = random_call({3000, 16, 2}, 13);
  const TokenRows rows{{}, 3, RowOrder::kRowByRow, at::rand({3000}).gt(0.1)};
  EXPECT_AS_REFERENCE(call, rows);
}

TEST_P(RouterKernelTest, TheLaunchDoesNotMatter) {
  if (GetParam() == Path::kCuda) GTEST_SKIP() << "launches are varied where they are emulated";
  const RouterCall call = random_call({150, 48, 6}, 14);
  const TokenRows rows{{}, 3, RowOrder::kInterleaved, at::rand({150}).gt(0.2)};
  const SlotsBefore before{at::zeros({150}, at::kInt), 1};
  const Observed once = observe_all_on(GetParam(), call, rows, before);
  for (const int64_t num_processors : {1, 3, 16, 132}) {
    for (const uint64_t seed : {2, 3}) {
      const Observed again = observe_all_on(GetParam(), call, rows, before, {num_processors, seed});
      EXPECT_TRUE(at::equal(again.sums.words, once.sums.words)) << num_processors;
      EXPECT_TRUE(at::equal(again.transitions, once.transitions)) << num_processors;
    }
  }
}

TEST_P(RouterKernelTest, AddsToWhatIsThere) {
  const RouterCall first = random_call({40, 12, 2}, 15), second = random_call({60, 12, 2}, 16);
  RouterSums both;
  merge(both, observe_on(GetParam(), first));
  merge(both, observe_on(GetParam(), second));
  const at::Device device = device_of(GetParam());
  RouterSums sums = empty_router_sums(12, 2, 1, device);
  for (const RouterCall& call : {first, second}) observe_into_on(GetParam(), sums, to_device(call, device), {});
  EXPECT_TRUE(at::equal(on_host(sums).words, both.words));
}

}  // namespace
}  // namespace moetap::analysis
