#include "analysis/routers/router_sums.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <set>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/router_metrics.h"
#include "analysis/routers/transition_sums.h"
#include "tests/analysis/routers/router_calls.h"

namespace moetap::analysis {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
using Counts = std::vector<int64_t>;

class RouterSumsTest : public PathTest {
 protected:
  RouterMetrics measure(const RouterCall& call, const TokenRows& rows = {}) {
    return finalize(observe_on(GetParam(), call, rows));
  }
  LibMoeMetrics measure_libmoe(const RouterCall& call, const TokenRows& rows = {}) {
    return finalize_libmoe(observe_on(GetParam(), call, rows));
  }
};

INSTANTIATE_TEST_SUITE_P(Paths, RouterSumsTest, all_paths(), path_name);

RouterCall call_of(at::Tensor logits, at::Tensor selected, at::Tensor weights, int64_t num_experts) {
  RouterCall call;
  call.logits = std::move(logits);
  call.selected = std::move(selected);
  call.weights = std::move(weights);
  call.num_experts = num_experts;
  return call;
}

at::Tensor ids(std::initializer_list<int64_t> values, int64_t top_k) {
  return at::tensor(values, at::kLong).view({-1, top_k});
}

at::Tensor reals(std::initializer_list<float> values, int64_t columns) {
  return at::tensor(values, at::kFloat).view({-1, columns});
}

TEST_P(RouterSumsTest, NoTokens) {
  const RouterCall call = random_call({0, 5, 2}, 1);
  const RouterMetrics metrics = measure(call);
  EXPECT_EQ(metrics.tokens, 0);
  EXPECT_EQ(metrics.selected_count, Counts(5, 0));
  EXPECT_EQ(metrics.load_cv, 0);
  EXPECT_FALSE(metrics.mean_prob || metrics.usage || metrics.entropy_all || metrics.entropy_topk || metrics.margin ||
               metrics.router_z_loss || metrics.balance_loss || metrics.gini || metrics.repeat_rate ||
               metrics.load_ratio);
  const LibMoeMetrics libmoe = measure_libmoe(call, TokenRows{{}, 3});
  EXPECT_FALSE(libmoe.entropy_weight_all || libmoe.balance_loss || libmoe.router_z_loss || libmoe.dist_experts_top1);
}

TEST_P(RouterSumsTest, OneTokenAndOneExpert) {
  const RouterMetrics one_token = measure(random_call({1, 4, 2}, 2));
  EXPECT_EQ(one_token.tokens, 1);
  EXPECT_TRUE(one_token.entropy_all);
  EXPECT_FALSE(one_token.repeat_rate) << "a token has no neighbour";

  const RouterMetrics one_expert = measure(random_call({3, 1, 1}, 3));
  EXPECT_EQ(one_expert.selected_count, Counts{3});
  EXPECT_EQ(one_expert.entropy_all, 0.0);
  EXPECT_FALSE(one_expert.entropy_ratio);
  EXPECT_FALSE(one_expert.margin);
  EXPECT_EQ(one_expert.load_cv, 0);
  EXPECT_EQ(one_expert.gini, 0.0);
  EXPECT_EQ(one_expert.coactivation, Counts{3});
  EXPECT_EQ(one_expert.repeat_rate, 1.0);
}

TEST_P(RouterSumsTest, AllExpertsOfEachToken) {
  const RouterMetrics metrics = measure(random_call({6, 5, 5}, 4));
  EXPECT_EQ(metrics.selected_count, Counts(5, 6));
  EXPECT_EQ(metrics.coactivation, Counts(25, 6));
  EXPECT_EQ(metrics.load_cv, 0);
  EXPECT_EQ(metrics.jain, 1.0);
}

TEST_P(RouterSumsTest, AllTokensToOneExpert) {
  RouterCall call = random_call({40, 33, 1}, 5);
  call.selected.fill_(32);
  const RouterMetrics metrics = measure(call);
  EXPECT_EQ(metrics.selected_count[32], 40);
  EXPECT_EQ(metrics.dead_experts, 32);
  EXPECT_EQ(metrics.max_violation, 32.0);
  EXPECT_NEAR(*metrics.gini, 1 - 1.0 / 33, 1e-15);
  EXPECT_EQ(metrics.repeat_rate, 1.0);
}

TEST_P(RouterSumsTest, UnusedAndInvalidSlots) {
  const RouterMetrics metrics =
      measure(call_of(reals({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 3), ids({2, -1, -1, -1, 3, -7, 1, 0}, 2),
                      reals({0.5, 0.5, 0.9, 0.1, 0.6, 0.4, 0.25, 0.75}, 2), 3));
  EXPECT_EQ(metrics.tokens, 4);
  EXPECT_EQ(metrics.selected_count, (Counts{1, 1, 1}));
  EXPECT_EQ(metrics.top1_count, (Counts{1, 0, 1}));
  EXPECT_EQ(metrics.invalid_ids, 2) << "3 and -7";
  EXPECT_EQ(metrics.dropped_tokens, 2) << "tokens 1 and 2 reach no expert";
  EXPECT_EQ(metrics.mean_weight[0], 0.75);
  EXPECT_EQ(metrics.coactivation, (Counts{1, 1, 0, 1, 1, 0, 0, 0, 1}));
  EXPECT_EQ(metrics.margin, (0.5 + 0 + 0 + 0.5) / 4) << "0 stands for a slot that is not used";
  EXPECT_FALSE(metrics.repeat_rate) << "no two neighbours with a first slot";
}

TEST_P(RouterSumsTest, ZeroWeightsAreDroppedSelections) {
  const RouterMetrics metrics = measure(call_of({}, ids({0, 1, 2, 1}, 2), reals({0, -0.0F, 0.25, 0}, 2), 3));
  EXPECT_EQ(metrics.selected_count, (Counts{0, 0, 1}));
  EXPECT_EQ(metrics.zero_weight_count, (Counts{1, 2, 0}));
  EXPECT_EQ(metrics.dropped_tokens, 1);
  EXPECT_EQ(metrics.entropy_topk, 0.0);
  EXPECT_EQ(metrics.top1_count, (Counts{1, 0, 1})) << "the router's choice, dropped or not";
  EXPECT_EQ(metrics.coactivation[0 * 3 + 1], 0);
  EXPECT_EQ(measure_libmoe(call_of({}, ids({0, 1, 2, 1}, 2), reals({0, 0, 0.25, 0}, 2), 3)).dist_experts_top2,
            (Counts{1, 2, 1}));
}

TEST_P(RouterSumsTest, DuplicatedIdsCountEachSlotAndNoPair) {
  const RouterMetrics metrics = measure(call_of({}, ids({1, 1, 0}, 3), reals({0.5, 0.3, 0.2}, 3), 2));
  EXPECT_EQ(metrics.selected_count, (Counts{1, 2}));
  EXPECT_NEAR(*metrics.mean_weight[1], 0.4, 1e-7);
  EXPECT_EQ(metrics.coactivation, (Counts{1, 1, 1, 2}));
  EXPECT_NEAR(*metrics.margin, 0.2, 1e-7);
}

TEST_P(RouterSumsTest, SlotsAreRankedByWeight) {
  const RouterMetrics metrics =
      measure(call_of({}, ids({3, 1, 2, 2, 0, 1}, 3), reals({0.2, 0.5, 0.3, 0.25, 0.5, 0.5}, 3), 4));
  EXPECT_EQ(metrics.top1_count, (Counts{1, 1, 0, 0})) << "on a tie the lower id";
  EXPECT_NEAR(*metrics.margin, (0.2 + 0.0) / 2, 1e-7);
}

TEST_P(RouterSumsTest, WithoutWeightsTheOrderIsTheModels) {
  const RouterMetrics metrics = measure(call_of(reals({1, 2, 3, 3, 2, 1}, 3), ids({1, 2, -1, 0}, 2), {}, 3));
  EXPECT_EQ(metrics.selected_count, (Counts{1, 1, 1}));
  EXPECT_EQ(metrics.top1_count, (Counts{1, 1, 0}));
  EXPECT_FALSE(metrics.margin || metrics.entropy_topk);
  EXPECT_EQ(metrics.mean_weight, std::vector<std::optional<double>>(3));
  EXPECT_TRUE(metrics.balance_loss);
}

TEST_P(RouterSumsTest, WithoutLogitsNothingIsSaidOfProbabilities) {
  RouterCall call = random_call({5, 6, 2}, 6);
  call.logits = at::Tensor();
  call.sigmoid_scores = true;
  const RouterMetrics metrics = measure(call);
  EXPECT_FALSE(metrics.mean_prob || metrics.entropy_all || metrics.entropy_all_bits || metrics.entropy_ratio ||
               metrics.router_z_loss || metrics.balance_loss || metrics.score_entropy);
  EXPECT_TRUE(metrics.entropy_topk && metrics.margin && metrics.usage);
  EXPECT_EQ(metrics.out_of_range_terms, 0) << "missing is not out of range";
  EXPECT_FALSE(measure_libmoe(call).dist_experts_top1);
}

TEST_P(RouterSumsTest, LogitsThatAreNotFinite) {
  for (const float bad : {kNaN, kInfinity}) {
    RouterCall call = random_call({4, 9, 2}, 7);
    call.logits[2][5] = bad;
    const RouterMetrics metrics = measure(call);
    EXPECT_FALSE(metrics.mean_prob || metrics.entropy_all || metrics.router_z_loss || metrics.balance_loss) << bad;
    EXPECT_EQ(metrics.out_of_range_terms, 3) << "of one token: entropy, probabilities, logsumexp";
    EXPECT_EQ(metrics.tokens, 4);
    EXPECT_TRUE(metrics.entropy_topk && metrics.margin);
  }
  RouterCall masked = random_call({4, 9, 2}, 7);
  masked.logits.select(1, 5).fill_(-kInfinity);
  const RouterMetrics metrics = measure(masked);
  ASSERT_TRUE(metrics.mean_prob && metrics.entropy_all && metrics.router_z_loss);
  EXPECT_EQ((*metrics.mean_prob)[5], 0) << "an expert that is masked out has probability 0";
  masked.logits.select(0, 1).fill_(-kInfinity);
  EXPECT_FALSE(measure(masked).entropy_all);
}

TEST_P(RouterSumsTest, LogsumexpBeyondTheRangeIsLeftOut) {
  RouterCall call = random_call({2, 3, 1}, 8);
  call.logits[0][0] = 7e4F;
  const RouterMetrics metrics = measure(call);
  EXPECT_FALSE(metrics.router_z_loss);
  EXPECT_EQ(metrics.out_of_range_terms, 1);
  EXPECT_TRUE(metrics.entropy_all);
}

TEST_P(RouterSumsTest, WeightsThatAreNotFinite) {
  for (const float bad : {kNaN, kInfinity, -kInfinity, 1e38F}) {
    RouterCall call = random_call({3, 4, 2}, 9);
    call.weights[1][0] = bad;
    const RouterMetrics metrics = measure(call);
    EXPECT_EQ(metrics.mean_weight, std::vector<std::optional<double>>(4)) << bad;
    EXPECT_FALSE(metrics.margin) << bad;
    EXPECT_EQ(metrics.entropy_topk.has_value(), bad == 1e38F) << bad;
    EXPECT_TRUE(metrics.entropy_all && metrics.balance_loss);
  }
  const RouterMetrics negative = measure(call_of({}, ids({0, 1}, 2), reals({0.75, -0.25}, 2), 2));
  EXPECT_FALSE(negative.entropy_topk) << "no distribution";
  EXPECT_EQ(negative.margin, 1.0);
  EXPECT_EQ(negative.mean_weight[1], -0.25);
}

TEST_P(RouterSumsTest, MaskedTokensChangeNothing) {
  const RouterCall call = random_call({7, 6, 2}, 10);
  RouterCall padded = take(call, {0, 0, 1, 2, 3, 3, 4, 5, 6, 6});
  for (const int64_t token : {1, 5, 9}) {
    padded.logits[token].fill_(kNaN);
    padded.weights[token].fill_(kInfinity);
    padded.selected[token].fill_(99);
  }
  const RouterSums plain = observe_on(GetParam(), call, rows_of({0, 0, 0, 1, 1, 1, 1}, 2));
  for (const int64_t masked :
       {int64_t{-1}, int64_t{2}, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
    const RouterSums sums = observe_on(GetParam(), padded, rows_of({0, masked, 0, 0, 1, masked, 1, 1, 1, masked}, 2));
    EXPECT_TRUE(at::equal(sums.words, plain.words)) << masked;
  }
}

TEST_P(RouterSumsTest, RowsThatAreNotGivenDivideTheTokens) {
  const RouterCall call = random_call({6, 4, 2}, 11);
  const RouterSums implicit = observe_on(GetParam(), call, TokenRows{{}, 3});
  EXPECT_TRUE(at::equal(implicit.words, observe_on(GetParam(), call, rows_of({0, 0, 1, 1, 2, 2}, 3)).words));
  EXPECT_EQ(implicit.tokens(), 6);
  EXPECT_EQ(implicit.tokens(1), 2);
  TokenRows interleaved{{}, 3, RowOrder::kInterleaved};
  EXPECT_TRUE(at::equal(observe_on(GetParam(), call, interleaved).words,
                        observe_on(GetParam(), call, rows_of({0, 1, 2, 0, 1, 2}, 3)).words));
  interleaved.valid = at::tensor({1, 0, 1, 1, 1, 0}).to(at::kBool);
  EXPECT_TRUE(at::equal(observe_on(GetParam(), call, interleaved).words,
                        observe_on(GetParam(), call, rows_of({0, -1, 2, 0, 1, -1}, 3)).words));
  const TokenRows masked{{}, 2, RowOrder::kRowByRow, interleaved.valid};
  EXPECT_TRUE(at::equal(observe_on(GetParam(), call, masked).words,
                        observe_on(GetParam(), call, rows_of({0, -1, 0, 1, 1, -1}, 2)).words));
}

TEST_P(RouterSumsTest, RepeatsAreCountedAmongNeighboursOfARow) {
  RouterCall call;
  call.num_experts = 3;
  call.selected = ids({1, 1, 2, 2, 1, 2, 0}, 1);
  const auto counts = [&](const TokenRows& rows) {
    const RouterSums sums = observe_on(GetParam(), call, rows);
    return Counts{sums.counter(kRepeatPairs), sums.counter(kRepeatHits)};
  };
  EXPECT_EQ(counts({}), (Counts{6, 2}));
  EXPECT_EQ(counts(rows_of({0, 0, 0, 1, 1, 1, 1}, 2)), (Counts{5, 1}));
  EXPECT_EQ(counts(rows_of({0, 1, 0, 1, 0, 1, 0}, 2)), (Counts{5, 1})) << "rows that alternate: 1 2 1 0 and 1 2 2";
  EXPECT_EQ(counts(rows_of({0, 0, -1, -1, 0, 0, 0}, 1)), (Counts{4, 2})) << "padding in between is not there";
}

TEST_P(RouterSumsTest, GivenProbabilitiesReplaceTheSoftmax) {
  RouterCall call = random_call({4, 5, 2}, 12);
  const RouterMetrics plain = measure(call);
  call.probabilities = at::tensor({0.1, 0.2, 0.3, 0.4, 0.0}, at::kDouble).repeat({4, 1});
  const RouterMetrics metrics = measure(call);
  EXPECT_NEAR((*metrics.mean_prob)[2], 0.3, 1e-12);
  EXPECT_NEAR(*metrics.entropy_all, 1.2798542258336676, 1e-8);
  EXPECT_EQ(metrics.router_z_loss, plain.router_z_loss);
  EXPECT_EQ(measure_libmoe(call).dist_experts_top1, (Counts{0, 0, 0, 4, 0}));
  call.probabilities[1][1] = -0.1;
  EXPECT_FALSE(measure(call).mean_prob);
}

TEST_P(RouterSumsTest, ScoreEntropyIsThatOfSigmoidScores) {
  RouterCall call = call_of(reals({0, 0, 0, 0, -800, -800, -800, 2}, 4), ids({0, 3}, 1), {}, 4);
  EXPECT_FALSE(measure(call).score_entropy);
  call.sigmoid_scores = true;
  EXPECT_NEAR(*measure(call).score_entropy, (std::log(4.0) + 0) / 2, 1e-8);
  call.scores = reals({0.5, 0.5, 0, 0, 0.1, 0.1, 0.1, 0.1}, 4);
  EXPECT_NEAR(*measure(call).score_entropy, (std::log(2.0) + std::log(4.0)) / 2, 1e-8);
}

TEST_P(RouterSumsTest, HalfPrecisionIsWidenedExactly) {
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    RouterCall call = random_call({50, 37, 4}, 13, dtype);
    const RouterSums half = observe_on(GetParam(), call);
    call.logits = call.logits.to(at::kDouble);
    call.weights = call.weights.to(at::kDouble);
    EXPECT_TRUE(at::equal(half.words, observe_on(GetParam(), call).words)) << dtype;
  }
}

TEST_P(RouterSumsTest, StridesDoNotMatter) {
  const RouterCall call = random_call({21, 10, 3}, 14);
  RouterCall strided = call;
  strided.logits = call.logits.t().contiguous().t();
  strided.weights = at::stack({call.weights, call.weights + 1}, 2).select(2, 0);
  strided.selected = call.selected.t().contiguous().t();
  ASSERT_FALSE(strided.logits.is_contiguous() || strided.weights.is_contiguous() || strided.selected.is_contiguous());
  EXPECT_TRUE(at::equal(observe_on(GetParam(), strided).words, observe_on(GetParam(), call).words));
}

TEST_P(RouterSumsTest, LeavesTheCallAsItIs) {
  RouterCall call = random_call({9, 5, 2}, 15);
  call.logits.requires_grad_(true);
  const at::Tensor logits = call.logits.detach().clone(), weights = call.weights.clone(),
                   selected = call.selected.clone();
  const RouterSums sums = observe_on(GetParam(), call);
  EXPECT_FALSE(sums.words.requires_grad());
  EXPECT_TRUE(at::equal(call.logits, logits));
  EXPECT_TRUE(at::equal(call.weights, weights));
  EXPECT_TRUE(at::equal(call.selected, selected));
}

TEST(ObserveTest, TheNumberOfThreadsDoesNotMatter) {
  const RouterCall call = random_call({6000, 40, 4}, 16);
  const TokenRows rows{{}, 8};
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const RouterSums one = observe(call, rows);
  for (const int count : {2, 3, 7}) {
    at::set_num_threads(count);
    EXPECT_TRUE(at::equal(observe(call, rows).words, one.words)) << count;
  }
  at::set_num_threads(threads);
}

std::set<std::string>& operations_seen() {
  static std::set<std::string> names;
  return names;
}

/// Names of the operations that LibTorch runs within `function`, on this thread.
template <typename Function>
std::set<std::string> operations_of(const Function& function) {
  operations_seen().clear();
  const auto see = [](const at::RecordFunction& record) -> std::unique_ptr<at::ObserverContext> {
    operations_seen().insert(record.name());
    return nullptr;
  };
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(see).scopes({at::RecordScope::FUNCTION}));
  function();
  at::removeCallback(handle);
  return operations_seen();
}

TEST(ObserveTest, ThePathOfOperationsNeedsNoValueOnTheHost) {
  RouterCall call = random_call({64, 12, 3}, 20);
  call.sigmoid_scores = true;
  const std::set<std::string> names = operations_of([&] {
    for (const int64_t num_rows : {1, 4}) {
      const TokenRows rows{{}, num_rows};
      observe_all_on(Path::kOperations, call, rows, {at::zeros({64}, at::kInt), 12});
    }
  });
  EXPECT_EQ(names.count("aten::index_add_"), 1U) << "operations are seen at all";
  EXPECT_EQ(operations_of([&] { call.weights.sum().item<float>(); }).count("aten::_local_scalar_dense"), 1U);
  // What waits for the device: reading a value, and shapes that depend on values.
  for (const char* name :
       {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero",
        "aten::masked_select", "aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::repeat_interleave",
        "aten::unique_dim", "aten::_unique2", "aten::bincount"}) {
    EXPECT_EQ(names.count(name), 0U) << name;
  }
}

TEST(ObserveTest, SumsThatAreNotNormalizedAreBounded) {
  const RouterCall call = random_call({5, 4, 2}, 21);
  RouterSums sums = empty_router_sums(4, 2, 1);
  sums.pending_terms = kMaxTermsPerCall - 9;  // the call has 10 selections
  EXPECT_THROW(observe_into(sums, call, {}), c10::Error);
  sums.pending_terms = kMaxTermsPerCall - 10;
  EXPECT_NO_THROW(observe_into(sums, call, {}));
  EXPECT_EQ(sums.pending_terms, 0) << "the CPU path normalizes";
}

TEST(ObserveTest, AddsIntoSumsThatAreThere) {
  const RouterCall first = random_call({5, 6, 2}, 17), second = random_call({8, 6, 2}, 18);
  RouterSums sums = observe(first, {});
  const void* address = sums.words.const_data_ptr();
  observe_into(sums, second, {});
  EXPECT_EQ(sums.words.const_data_ptr(), address);
  RouterSums merged = observe(first, {});
  merge(merged, observe(second, {}));
  EXPECT_TRUE(at::equal(sums.words, merged.words));
}

/// The message of the error that the call gives, "" if none.
template <typename Function>
std::string error_of(const Function& function) {
  try {
    function();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(ObserveTest, ErrorsNameTheArgument) {
  const RouterCall good = random_call({4, 6, 2}, 19);
  const auto expect_error = [&](const auto& change, const char* part) {
    RouterCall call = good;
    TokenRows rows;
    change(call, rows);
    const std::string error = error_of([&] { observe(call, rows); });
    EXPECT_NE(error.find(part), std::string::npos) << "'" << part << "' in '" << error << "'";
  };
  expect_error(
      [](RouterCall& call, TokenRows&) {
        call.logits = at::zeros({4, 7});
      },
      "logits must be [num_tokens, num_experts] = [4, 6]");
  expect_error(
      [](RouterCall& call, TokenRows&) {
        call.logits = at::zeros({4, 6}, at::kInt);
      },
      "logits must be floating point");
  expect_error([](RouterCall& call, TokenRows&) { call.weights = at::zeros({4}); }, "weights must be");
  expect_error([](RouterCall& call, TokenRows&) { call.scores = at::zeros({3, 6}); }, "scores must be");
  expect_error([](RouterCall& call, TokenRows&) { call.selected = at::Tensor(); },
               "selected must be [num_tokens, top_k]");
  expect_error([](RouterCall& call, TokenRows&) { call.selected = call.selected.to(at::kInt); },
               "selected must be int64");
  expect_error([](RouterCall& call, TokenRows&) { call.num_experts = 0; }, "num_experts must be positive");
  expect_error([](RouterCall&, TokenRows& rows) { rows.num_rows = 3; }, "must divide evenly");
  expect_error([](RouterCall&, TokenRows& rows) { rows.num_rows = 0; }, "num_rows must be positive");
  expect_error([](RouterCall&, TokenRows& rows) { rows.row = at::zeros({3}, at::kLong); }, "row must be [num_tokens]");
  expect_error([](RouterCall&, TokenRows& rows) { rows.row = at::zeros({4}); }, "row must be int64");
  expect_error([](RouterCall&, TokenRows& rows) { rows.valid = at::ones({3}, at::kBool); },
               "valid must be [num_tokens]");
  expect_error([](RouterCall&, TokenRows& rows) { rows.valid = at::ones({4}); }, "valid must be bool");
  expect_error(
      [](RouterCall&, TokenRows& rows) {
        rows.row = at::zeros({4}, at::kLong);
        rows.valid = at::ones({4}, at::kBool);
      },
      "valid must be undefined");
  RouterSums other = empty_router_sums(5, 2, 1);
  EXPECT_NE(error_of([&] { observe_into(other, good, {}); }).find("do not fit a call of 6 experts"), std::string::npos);
  EXPECT_NE(error_of([] { empty_router_sums(0, 1, 1); }).find("must be positive"), std::string::npos);
}

TEST(ObserveTest, RefusesMoreTokensThanTheLimbsHold) {
  RouterCall call;
  call.num_experts = 1;
  call.selected = at::zeros({1, 1}, at::kLong).expand({(int64_t{1} << 26) + 1, 1});  // one word of memory
  EXPECT_NE(error_of([&] { observe(call, {}); }).find("at most 67108864 tokens"), std::string::npos);
  call.selected = at::zeros({1, 1}, at::kLong).expand({int64_t{1} << 22, 17});
  EXPECT_NE(error_of([&] { observe(call, {}); }).find("selections"), std::string::npos);
}

}  // namespace
}  // namespace moetap::analysis
