#include <gtest/gtest.h>

#include "analysis/attention/attention_rows.h"
#include "benchmarks/process_usage.h"
#include "tests/analysis/attention/attention_calls.h"
#include "tests/analysis/attention/attention_shapes.h"
#include "tests/analysis/attention/compare_rows.h"

// The path in tiles against the reference, and what its tiles must not show in.
namespace moetap::analysis {
namespace {

void expect_same_bits(const at::Tensor& actual, const at::Tensor& expected, const char* what) {
  EXPECT_TRUE(at::equal(actual, expected)) << what << "\n" << (actual != expected).sum();
}

/// The lines of one sequence.
at::Tensor lines_of(const at::Tensor& lines, const AttentionRows& rows, int64_t sequence) {
  return lines.narrow(0, sequence * rows.num_queries, rows.num_queries);
}

TEST(AttentionTilesTest, TilesAgreeWithTheReference) {
  for (const CallOfTest& test : calls_of_all_shapes()) {
    // Scores of hundreds are good to 1e-5 of themselves, and so are logarithms of probabilities.
    const double tolerance = test.call.scale > 10 ? 2e-4 : 5e-6;
    const AttentionRows expected = reference(test, true);
    AttentionRows without_matrix = expected;
    without_matrix.matrix = at::Tensor();
    expect_equal(fast(test, true), expected, tolerance, test.name);
    expect_equal(fast(test), without_matrix, tolerance, test.name);
    if (test.call.mask.defined() || test.call.scale < 10) {
      expect_equal(fast(with_log_sums(test), true), expected, 2e-5, test.name + ", log sums");
      expect_equal(fast(with_log_sums(test)), without_matrix, 2e-5, test.name + ", log sums");
    }
    const CallOfTest given = with_probabilities(test);
    expect_equal(reference(given, true), expected, tolerance, given.name + ", reference");
    expect_equal(fast(given, true), expected, tolerance, given.name);
  }
}

TEST(AttentionTilesTest, HalfPrecisionIsWidened) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kDouble}) {
    CallOfTest test = random_call({2, 4, 2, 100, 100, 64});
    test.call.query = test.call.query.to(type);
    test.call.key = test.call.key.to(type);
    expect_equal(fast(test), reference(test), 5e-6, toString(type));
    const CallOfTest given = with_probabilities(test, type);
    expect_equal(fast(given), reference(given), 5e-6, given.name);
  }
  CallOfTest test = random_call({1, 1, 1, 4, 4, 4});
  test.call.query = at::tensor({0.0, 6e-8, 65504.0, -5.9e-6}, at::kDouble).to(at::kHalf).expand({1, 1, 4, 4});
  test.call.key = at::eye(4).to(at::kHalf).view({1, 1, 4, 4});
  test.call.scale = 1e-3;
  expect_equal(fast(test), reference(test), 5e-6, "smallest and largest half");
}

TEST(AttentionTilesTest, SinksTakeWhatKeysLack) {
  CallOfTest test = random_call({2, 3, 3, 90, 90, 16});
  const at::Tensor scores = scores_of(test.call);
  const at::Tensor with_sink = at::cat({scores, at::randn({2, 3, 1, 1}).expand({2, 3, 90, 1}).to(at::kDouble)}, 3);
  test.call = {};
  test.call.scores = scores;
  test.call.probabilities = at::softmax(with_sink, 3).narrow(3, 0, 90);
  const AttentionRows rows = fast(test, true);
  expect_equal(rows, reference(test, true), 5e-6, "sinks");
  const at::Tensor mass = rows.values.select(1, kKeyMass);
  EXPECT_LT(mass.max().item<double>(), 0.9999);
  EXPECT_TRUE(at::allclose(mass.view({2, 90}), rows.matrix.sum(2), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(rows.values.narrow(1, kFirstRegion, 5).sum(1), at::ones({180}), 1e-5, 1e-6))
      << "of p, not P";
}

TEST(AttentionTilesTest, LogSumsOfSomethingElseAreNotUsed) {
  const CallOfTest test = random_call({1, 2, 2, 70, 70, 8});
  CallOfTest wrong = with_log_sums(test);
  wrong.call.log_sum_exp = wrong.call.log_sum_exp / std::log(2.0F);
  expect_equal(fast(wrong), reference(test), 5e-6, "to the base 2");
}

TEST(AttentionTilesTest, BatchesAndPaddingChangeNoBit) {
  const std::vector<int64_t> lengths = {130, 64, 1, 97};
  CallOfTest whole = random_call({4, 4, 2, 140, 140, 32});
  whole.tokens.query_position = whole.tokens.key_position = positions_of(lengths, 140);
  whole.call.mask = (whole.tokens.key_position >= 0).view({4, 1, 1, 140});
  for (const bool with_log : {false, true}) {
    const CallOfTest call = with_log ? with_log_sums(whole) : whole;
    const AttentionRows rows = fast(call);
    for (int64_t b = 0; b < 4; ++b) {
      const int64_t n = lengths[b];
      // The sequence alone and without padding; then with padding on its left.
      CallOfTest alone;
      alone.call.scale = call.call.scale;
      alone.call.query = call.call.query.narrow(0, b, 1).narrow(2, 0, n);
      alone.call.key = call.call.key.narrow(0, b, 1).narrow(2, 0, n);
      if (with_log) alone.call.log_sum_exp = call.call.log_sum_exp.narrow(0, b, 1).narrow(2, 0, n);
      alone.tokens.query_position = alone.tokens.key_position = positions_of({n}, n);
      CallOfTest left = alone;
      left.call.query = at::constant_pad_nd(alone.call.query, {0, 0, 9, 0}, 5);
      left.call.key = at::constant_pad_nd(alone.call.key, {0, 0, 9, 0}, 5);
      if (with_log) left.call.log_sum_exp = at::constant_pad_nd(alone.call.log_sum_exp, {9, 0}, 5);
      left.tokens.query_position = left.tokens.key_position = positions_of({n}, n + 9, true);
      left.call.mask = (left.tokens.key_position >= 0).view({1, 1, 1, n + 9});
      const AttentionRows of_alone = fast(alone), of_left = fast(left);
      expect_same_bits(lines_of(rows.values, rows, b).narrow(0, 0, n), of_alone.values, "values");
      expect_same_bits(lines_of(rows.bins, rows, b).narrow(0, 0, n), of_alone.bins, "bins");
      expect_same_bits(of_left.values.narrow(0, 9, n), of_alone.values, "values, left padding");
      expect_same_bits(of_left.bins.narrow(0, 9, n), of_alone.bins, "bins, left padding");
      expect_same_bits(rows.head_high[b], of_alone.head_high[0], "heads");
      expect_same_bits(rows.head_low[b], of_alone.head_low[0], "heads");
      expect_same_bits(of_left.head_low, of_alone.head_low, "heads, left padding");
      expect_same_bits(rows.head_max_score[b], of_alone.head_max_score[0], "largest scores");
    }
  }
}

TEST(AttentionTilesTest, SampledRowsAreThoseOfTheWhole) {
  for (const bool causal : {false, true}) {
    CallOfTest test = random_call({2, 4, 4, 300, 300, 32});
    test.call.causal = causal;
    const AttentionRows whole = fast(test);
    test.tokens.sampled = at::rand({2, 300}) < 0.2;
    const AttentionRows sampled = fast(test);
    const at::Tensor chosen = test.tokens.sampled.flatten();
    EXPECT_TRUE(at::equal(sampled.line == kRow, chosen));
    const int64_t received = received_column(5);
    expect_same_bits(sampled.values.narrow(1, 0, received).index({chosen}),
                     whole.values.narrow(1, 0, received).index({chosen}), "values");
    expect_same_bits(sampled.bins.index({chosen}), whole.bins.index({chosen}), "bins");
    const at::Tensor expected_weight = 300 / test.tokens.sampled.sum(1).to(at::kDouble);
    EXPECT_TRUE(at::equal(sampled.weight, expected_weight));
    expect_equal(sampled, reference(test), 5e-6, "sampled");
  }
}

TEST(AttentionTilesTest, DecodingGivesTheRowsOfTheWhole) {
  CallOfTest whole = random_call({1, 4, 2, 90, 90, 32});
  whole.call.causal = true;
  whole.tokens.num_regions = 2;
  whole.tokens.key_region = whole.tokens.query_region = at::randint(0, 2, {1, 90}).to(at::kByte);
  const AttentionRows rows = fast(whole);
  for (const int64_t q : {0, 1, 40, 89}) {
    CallOfTest step;
    step.call.scale = whole.call.scale;
    step.call.query = whole.call.query.narrow(2, q, 1);
    step.call.key = whole.call.key.narrow(2, 0, q + 1);
    step.tokens.num_regions = 2;
    step.tokens.query_position = whole.tokens.query_position.narrow(1, q, 1);
    step.tokens.key_position = whole.tokens.key_position.narrow(1, 0, q + 1);
    step.tokens.query_region = whole.tokens.query_region.narrow(1, q, 1);
    step.tokens.key_region = whole.tokens.key_region.narrow(1, 0, q + 1);
    const AttentionRows of_step = fast(step);
    for (const int64_t column : {int64_t{kEntropy}, int64_t{kDistance}, int64_t{kSelf}, int64_t{kDiagonal},
                                 int64_t{kFirst}, region_column(0), region_column(1)}) {
      EXPECT_NEAR(of_step.values[0][column].item<double>(), rows.values[q][column].item<double>(), 1e-5) << column;
    }
  }
}

TEST(AttentionTilesTest, LogSumsOfLibTorchFit) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const bool causal : {false, true}) {
      CallOfTest test = random_call({2, 4, 4, 150, 150, 32});
      test.call.query = test.call.query.to(type);
      test.call.key = test.call.key.to(type);
      test.call.causal = causal;
      const AttentionRows expected = reference(test);
      test.call.log_sum_exp = std::get<1>(at::_scaled_dot_product_flash_attention_for_cpu(
                                              test.call.query, test.call.key, test.call.key, 0, causal))
                                  .to(at::kFloat);
      expect_equal(fast(test), expected, type == at::kFloat ? 1e-5 : 1e-3, toString(type));
    }
  }
}

TEST(AttentionTilesTest, MemoryGrowsWithTheLengthAlone) {
  constexpr int64_t kSize = 16384;  // a matrix would take 1 GiB
  CallOfTest test = random_call({1, 1, 1, kSize, kSize, 8});
  test.tokens.sampled = at::arange(kSize).remainder(16).eq(0).view({1, kSize});
  // A log-sum-exp that does not fit, so that both ways are gone.
  CallOfTest both = test;
  both.call.log_sum_exp = at::zeros({1, 1, kSize});
  for (const CallOfTest& each : {test, both}) {
    const int64_t before = benchmarks::resident_memory().bytes;
    benchmarks::reset_peak_resident();
    fast(each);
    EXPECT_LT(benchmarks::peak_resident_bytes() - before, int64_t{64} << 20)
        << (each.call.log_sum_exp.defined() ? 2 : 1) << " ways";
  }
}

}  // namespace
}  // namespace moetap::analysis
