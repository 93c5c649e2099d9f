#include "analysis/attention/attention_rows.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/attention/attention_paths.h"
#include "tests/analysis/attention/attention_calls.h"

namespace moetap::analysis {
namespace {

/// As the specification of the values says, in loops. P: float64 [B, H, Sq, Sk].
class PlainRows {
 public:
  PlainRows(const at::Tensor& probabilities, const AttentionTokens& tokens)
      : p_(probabilities.contiguous()),
        query_(tokens.query_position.contiguous()),
        key_(tokens.key_position.contiguous()),
        tokens_(tokens) {}

  int64_t keys_of(int64_t b) const { return (key_[b] >= 0).sum().item<int64_t>(); }
  int64_t key_position(int64_t b, int64_t j) const { return key_.const_data_ptr<int32_t>()[b * key_.size(1) + j]; }
  int64_t query_position(int64_t b, int64_t q) const {
    return query_.const_data_ptr<int32_t>()[b * query_.size(1) + q];
  }

  double given(int64_t b, int64_t h, int64_t q, int64_t j) const {
    return p_.const_data_ptr<double>()[((b * p_.size(1) + h) * p_.size(2) + q) * p_.size(3) + j];
  }
  double mass(int64_t b, int64_t h, int64_t q) const {
    double sum = 0;
    for (int64_t j = 0; j < p_.size(3); ++j) sum += key_position(b, j) >= 0 ? given(b, h, q, j) : 0;
    return sum;
  }
  double mean(int64_t b, int64_t q, int64_t j) const {
    double sum = 0;
    for (int64_t h = 0; h < p_.size(1); ++h) sum += given(b, h, q, j) / mass(b, h, q);
    return sum / static_cast<double>(p_.size(1));
  }

  std::vector<double> values(int64_t b, int64_t q) const {
    const int64_t regions = tokens_.num_regions, n = keys_of(b), i = query_position(b, q), heads = p_.size(1);
    std::vector<double> v(num_attention_columns(regions));
    const auto share = 1.0 / static_cast<double>(heads);
    for (int64_t h = 0; h < heads; ++h) {
      const double m = mass(b, h, q);
      double largest = 0;
      for (int64_t j = 0; j < p_.size(3); ++j) {
        if (key_position(b, j) < 0) continue;
        const double p = given(b, h, q, j) / m;
        if (p > 0) v[kEntropy] -= share * p * std::log(p);
        largest = std::max(largest, p);
      }
      v[kMaxWeight] += share * largest;
      v[kKeyMass] += share * m;
    }
    for (int64_t j = 0; j < p_.size(3); ++j) {
      const int64_t s = key_position(b, j);
      if (s < 0) continue;
      const double p = mean(b, q, j), one = 1.0 / static_cast<double>(n);
      const int64_t away = std::abs(i - s);
      v[kDistance] += p * static_cast<double>(away);
      if (away == 0 && tokens_.self) v[kSelf] += p;
      if (away <= 5) v[kDiagonal] += p, v[kDiagonalExpected] += one;
      if (away > n / 2) v[kFar] += p, v[kFarExpected] += one;
      if (s < 4) v[kFirst] += p;
      if (s >= n - 4) v[kLast] += p;
      int64_t region = 0;
      while (region + 1 < regions && (region + 1) * n / regions <= s) ++region;
      if (tokens_.key_region.defined()) region = tokens_.key_region[b][j].item<int64_t>();
      v[region_column(region)] += p;
      if (tokens_.self && away == 0) {
        for (int64_t other = 0; other < p_.size(2); ++other) {
          if (query_position(b, other) >= 0) v[received_column(regions)] += mean(b, other, j);
        }
      }
    }
    return v;
  }

 private:
  const at::Tensor p_, query_, key_;
  const AttentionTokens& tokens_;
};

/// Compares all that rows hold, in units of what float32 can hold.
void expect_equal(const AttentionRows& actual, const AttentionRows& expected, double tolerance,
                  const std::string& name) {
  SCOPED_TRACE(name);
  ASSERT_TRUE(at::equal(actual.line, expected.line)) << actual.line << expected.line;
  ASSERT_TRUE(at::equal(actual.region, expected.region));
  ASSERT_TRUE(at::equal(actual.num_keys, expected.num_keys));
  ASSERT_TRUE(at::equal(actual.length, expected.length));
  ASSERT_TRUE(at::equal(actual.position, expected.position));
  ASSERT_TRUE(at::equal(actual.weight, expected.weight));
  const auto compare = [&](const char* what, const at::Tensor& a, const at::Tensor& b) {
    ASSERT_EQ(a.sizes(), b.sizes());
    if (a.numel() == 0) return;
    const at::Tensor difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs() / b.to(at::kDouble).abs().clamp_min(1);
    ASSERT_LE(difference.max().item<double>(), tolerance) << what << "\n" << difference.amax(0);
  };
  compare("values", actual.values, expected.values);
  compare("bins", actual.bins, expected.bins);
  const auto heads = [](const AttentionRows& rows) {
    return rows.head_high.to(at::kDouble) / 16 + rows.head_low.to(at::kDouble) * 0x1p-40;
  };
  const double num_rows = std::max<double>(1, (expected.line == kRow).sum().item<double>());
  compare("heads", heads(actual) / num_rows, heads(expected) / num_rows);
  ASSERT_TRUE(at::equal(actual.head_max_score == 0, expected.head_max_score == 0));
  for (int64_t i = 0; i < actual.head_max_score.numel(); ++i) {
    const int64_t a = actual.head_max_score.flatten()[i].item<int64_t>();
    const int64_t b = expected.head_max_score.flatten()[i].item<int64_t>();
    if (b == 0) continue;
    ASSERT_NEAR(score_of_code(a), score_of_code(b), tolerance * std::max(1.0F, std::abs(score_of_code(b))));
  }
  ASSERT_EQ(actual.matrix.defined(), expected.matrix.defined());
  if (actual.matrix.defined()) compare("matrix", actual.matrix, expected.matrix);
}

void expect_same_bits(const at::Tensor& actual, const at::Tensor& expected, const char* what) {
  EXPECT_TRUE(at::equal(actual, expected)) << what << "\n" << (actual != expected).sum();
}

AttentionRows reference(const CallOfTest& test, bool matrix = false) {
  return measure_with_operations(test.call, test.tokens, {matrix});
}

AttentionRows fast(const CallOfTest& test, bool matrix = false) {
  return measure_on_cpu(test.call, test.tokens, {matrix});
}

/// The lines of one sequence.
at::Tensor lines_of(const at::Tensor& lines, const AttentionRows& rows, int64_t sequence) {
  return lines.narrow(0, sequence * rows.num_queries, rows.num_queries);
}

TEST(AttentionRowsTest, ReferenceIsTheSpecification) {
  for (const int64_t size : {1, 2, 5, 13, 31}) {
    CallOfTest test = random_call({2, 4, 2, size, size, 8});
    test.call.query.mul_(3);
    test.tokens.query_position = test.tokens.key_position = positions_of({size, (size + 1) / 2}, size, size % 2 == 0);
    for (const bool self : {true, false}) {
      test.tokens.self = self;
      if (!self) test.tokens.key_region = at::arange(2 * size, at::kByte).remainder(5).view({2, size});
      const AttentionRows rows = reference(test);
      const PlainRows plain(at::softmax(scores_of(test.call), 3), test.tokens);
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t q = 0; q < size; ++q) {
          const int64_t line = b * size + q;
          const bool is_row = plain.query_position(b, q) >= 0;
          ASSERT_EQ(rows.line[line].item<int64_t>(), is_row ? kRow : kNoRow);
          for (int64_t c = 0; c < rows.num_columns(); ++c) {
            const double expected = is_row ? plain.values(b, q)[c] : 0;
            // What is only there in self attention, is not compared in the other.
            if (!self && c == received_column(5)) continue;
            ASSERT_NEAR(rows.values[line][c].item<double>(), expected, 1e-6 * std::max(1.0, expected))
                << "size " << size << ", line " << line << ", column " << c;
          }
        }
      }
    }
  }
}

/// Four tokens, one head, whose numbers can be followed by hand.
TEST(AttentionRowsTest, FourTokensByHand) {
  const at::Tensor p = at::tensor({1.0, 0.0, 0.0, 0.0,    //
                                   0.5, 0.5, 0.0, 0.0,    //
                                   0.25, 0.25, 0.5, 0.0,  //
                                   0.125, 0.125, 0.25, 0.5},
                                  at::kDouble)
                           .view({1, 1, 4, 4});
  CallOfTest test;
  test.call.probabilities = p;
  test.call.scores = p.log();
  test.tokens.query_position = test.tokens.key_position = positions_of({4}, 4);
  test.tokens.num_regions = 2;
  for (const AttentionRows& rows : {reference(test, true), fast(test, true)}) {
    const at::Tensor last = rows.values[3].to(at::kDouble);
    const double ln2 = std::log(2.0);
    EXPECT_NEAR(last[kEntropy].item<double>(), (0.125 * 3 * 2 + 0.25 * 2 + 0.5) * ln2, 1e-6);
    EXPECT_NEAR(last[kMaxWeight].item<double>(), 0.5, 1e-7);
    EXPECT_NEAR(last[kKeyMass].item<double>(), 1, 1e-7);
    EXPECT_NEAR(last[kDistance].item<double>(), 0.125 * 3 + 0.125 * 2 + 0.25, 1e-7);
    EXPECT_NEAR(last[kSelf].item<double>(), 0.5, 1e-7);
    EXPECT_NEAR(last[kDiagonal].item<double>(), 1, 1e-7);
    EXPECT_NEAR(last[kDiagonalExpected].item<double>(), 1, 1e-7);
    EXPECT_NEAR(last[kFar].item<double>(), 0.125, 1e-7) << "only key 0 is more than 2 away";
    EXPECT_NEAR(last[kFarExpected].item<double>(), 0.25, 1e-7);
    EXPECT_NEAR(last[kFirst].item<double>(), 1, 1e-7);
    EXPECT_NEAR(last[kLast].item<double>(), 1, 1e-7);
    EXPECT_NEAR(last[region_column(0)].item<double>(), 0.25, 1e-7);
    EXPECT_NEAR(last[region_column(1)].item<double>(), 0.75, 1e-7);
    EXPECT_NEAR(last[received_column(2)].item<double>(), 0.5, 1e-7);
    EXPECT_NEAR(rows.values[0][received_column(2)].item<double>(), 1.875, 1e-6);
    EXPECT_NEAR(rows.bins[3][0].item<double>(), 0.125, 1e-7);
    EXPECT_NEAR(rows.bins[3][12].item<double>(), 0.5, 1e-7) << "floor(16 * 3 / 4)";
    EXPECT_NEAR(rows.bins[3][kFirstQuarter].item<double>(), 0.125, 1e-7);
    EXPECT_NEAR(rows.bins[3][kLastQuarter].item<double>(), 0.5, 1e-7);
    EXPECT_TRUE(at::allclose(rows.matrix[0], p[0][0].to(at::kFloat), 1e-6, 1e-7));
    EXPECT_EQ(score_of_code(rows.head_max_score.item<int64_t>()), 0);
  }
}

std::vector<CallOfTest> shapes() {
  std::vector<CallOfTest> tests;
  for (const int64_t size : {1, 2, 5, 15, 16, 17, 63, 64, 65, 200, 1000}) {
    CallOfTest test = random_call({size > 500 ? 1 : 3, size > 500 ? 2 : 4, 2, size, size, 24});
    test.name = "size " + std::to_string(size);
    tests.push_back(test);
    test.call.causal = true;
    test.name += ", causal";
    tests.push_back(test);
  }
  for (const int64_t key_heads : {1, 2, 6}) {
    CallOfTest test = random_call({2, 6, key_heads, 70, 70, 64});
    test.name = "key heads " + std::to_string(key_heads);
    tests.push_back(test);
  }
  for (const int64_t depth : {1, 3, 64, 128, 129, 300}) {
    CallOfTest test = random_call({1, 2, 2, 40, 90, depth});
    test.name = "depth " + std::to_string(depth);
    test.tokens.self = false;
    tests.push_back(test);
  }
  {
    CallOfTest test = random_call({2, 2, 2, 3, 150, 16});
    test.name = "behind a cache";
    test.tokens.self = true;
    test.tokens.query_position = ints({147, 148, 149, -1, 90, 91}, {2, 3});
    test.tokens.key_position = positions_of({150, 92}, 150, true);
    test.call.mask = test.tokens.key_position.view({2, 1, 1, 150}) <= test.tokens.query_position.view({2, 1, 3, 1});
    test.call.mask = test.call.mask.bitwise_and(test.tokens.key_position.view({2, 1, 1, 150}) >= 0);
    tests.push_back(test);
    test.name = "a cache in another order";
    const at::Tensor order = at::randperm(150, at::kLong);
    test.call.key = test.call.key.index_select(2, order);
    test.call.mask = test.call.mask.index_select(3, order);
    test.tokens.key_position = test.tokens.key_position.index_select(1, order);
    tests.push_back(test);
  }
  for (const bool left : {false, true}) {
    CallOfTest test = random_call({3, 4, 2, 130, 130, 16});
    test.tokens.query_position = test.tokens.key_position = positions_of({130, 77, 1}, 130, left);
    test.name = left ? "left padding that is attended to" : "right padding that is attended to";
    tests.push_back(test);
    const at::Tensor valid = (test.tokens.key_position >= 0).view({3, 1, 1, 130});
    test.name = left ? "left padding" : "right padding";
    test.call.mask = valid;
    tests.push_back(test);
    test.name += ", mask of both sides";
    test.call.mask = valid.bitwise_and(at::ones({130, 130}, at::kBool).tril());
    tests.push_back(test);
    test.name += ", finite";
    test.call.mask = at::zeros(test.call.mask.sizes())
                         .masked_fill(test.call.mask.logical_not(), std::numeric_limits<float>::lowest());
    tests.push_back(test);
    test.name = "padding, causal";
    test.call.mask = valid;
    test.call.causal = true;
    tests.push_back(test);
  }
  {
    CallOfTest test = random_call({2, 4, 4, 100, 100, 16});
    test.name = "bias by head";
    test.call.mask = at::randn({4, 100, 100}).mul_(2);
    tests.push_back(test);
    test.name = "bias by head, half";
    test.call.mask = test.call.mask.to(at::kHalf);
    tests.push_back(test);
    test.name = "holes";
    test.call.mask = at::rand({2, 1, 100, 100}) > 0.5;
    test.call.mask.select(2, 7).fill_(false);
    tests.push_back(test);
    test.name = "holes by head";
    test.call.mask = at::rand({2, 4, 100, 100}) > 0.8;
    test.call.mask.select(2, 7).fill_(false);
    test.call.mask.select(1, 1).select(1, 9).fill_(false);
    test.call.mask.narrow(3, 64, 36).select(1, 0).fill_(false);
    tests.push_back(test);
    test.name = "large scores";
    test.call.mask = at::Tensor();
    test.call.scale = 20;
    tests.push_back(test);
  }
  {
    CallOfTest test = random_call({1, 2, 1, 80, 80, 32});
    test.name = "strides";
    test.call.query = at::randn({1, 80, 2, 64}).slice(3, 0, 64, 2).transpose(1, 2);
    test.call.key = at::randn({32, 80, 1, 1}).permute({3, 2, 1, 0});
    tests.push_back(test);
    test.name = "many regions";
    test.tokens.num_regions = 16;
    test.tokens.key_region = at::randint(0, 16, {1, 80}).to(at::kByte);
    test.tokens.query_region = at::randint(0, 16, {1, 80}).to(at::kByte);
    tests.push_back(test);
    test.name = "sampled";
    test.tokens.sampled = at::rand({1, 80}) > 0.7;
    tests.push_back(test);
    test.name = "nothing is a row";
    test.tokens.query_position = at::full({1, 80}, -1, at::kInt);
    tests.push_back(test);
    test.name = "nothing is a key";
    test.tokens.query_position = test.tokens.key_position;
    test.tokens.key_position = at::full({1, 80}, -1, at::kInt);
    tests.push_back(test);
  }
  return tests;
}

TEST(AttentionRowsTest, TilesAgreeWithTheReference) {
  for (const CallOfTest& test : shapes()) {
    // Scores of hundreds are good to 1e-5 of themselves, and so are logarithms of probabilities.
    const double tolerance = test.call.scale > 10 ? 2e-4 : 5e-6;
    const AttentionRows expected = reference(test, true);
    expect_equal(fast(test, true), expected, tolerance, test.name);
    expect_equal(fast(test), reference(test), tolerance, test.name);
    if (test.call.mask.defined() || test.call.scale < 10) {
      expect_equal(fast(with_log_sums(test), true), expected, 2e-5, test.name + ", log sums");
      expect_equal(fast(with_log_sums(test)), reference(test), 2e-5, test.name + ", log sums");
    }
    const CallOfTest given = with_probabilities(test);
    expect_equal(reference(given, true), expected, tolerance, given.name + ", reference");
    expect_equal(fast(given, true), expected, tolerance, given.name);
  }
}

TEST(AttentionRowsTest, HalfPrecisionIsWidened) {
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

TEST(AttentionRowsTest, SinksTakeWhatKeysLack) {
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

TEST(AttentionRowsTest, RowsThatAreNoneAreNamed) {
  CallOfTest test = random_call({1, 2, 2, 70, 70, 8});
  test.call.mask = at::ones({70, 70}, at::kBool);
  test.call.mask[3].fill_(false);  // an empty row
  test.call.query[0][1][5][0] = NAN;
  test.call.query[0][0][66].fill_(HUGE_VALF);
  const CallOfTest given = with_probabilities(test);
  for (const CallOfTest& each : {test, with_log_sums(test), given}) {
    for (const AttentionRows& rows : {fast(each), reference(each)}) {
      for (int64_t q = 0; q < 70; ++q) {
        const int64_t expected = q == 3 ? kEmptyRow : (q == 5 || q == 66 ? kNotFiniteRow : kRow);
        EXPECT_EQ(rows.line[q].item<int64_t>(), expected) << q;
        if (expected == kRow) continue;
        EXPECT_EQ(rows.values[q].abs().sum().item<double>(), 0) << q;
      }
      EXPECT_TRUE(at::isfinite(rows.values).all().item<bool>());
      EXPECT_TRUE(at::isfinite(rows.bins).all().item<bool>());
    }
    expect_equal(fast(each), reference(each), 2e-5, each.name);
  }
}

TEST(AttentionRowsTest, LogSumsOfSomethingElseAreNotUsed) {
  const CallOfTest test = random_call({1, 2, 2, 70, 70, 8});
  CallOfTest wrong = with_log_sums(test);
  wrong.call.log_sum_exp = wrong.call.log_sum_exp / std::log(2.0F);
  expect_equal(fast(wrong), reference(test), 5e-6, "to the base 2");
}

TEST(AttentionRowsTest, BatchesAndPaddingChangeNoBit) {
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

TEST(AttentionRowsTest, SampledRowsAreThoseOfTheWhole) {
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

TEST(AttentionRowsTest, DecodingGivesTheRowsOfTheWhole) {
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

TEST(AttentionRowsTest, CallsThatDoNotFitAreRefused) {
  const CallOfTest good = random_call({2, 4, 2, 6, 6, 8});
  const auto expect_refused = [&](const std::function<void(CallOfTest&)>& spoil, const std::string& word) {
    CallOfTest test = good;
    spoil(test);
    try {
      measure_attention(test.call, test.tokens);
      FAIL() << "accepted: " << word;
    } catch (const c10::Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  expect_refused([](auto& test) { test.call.key = at::randn({2, 3, 6, 8}); }, "heads of key");
  expect_refused([](auto& test) { test.call.key = at::randn({2, 2, 6, 9}); }, "key must be");
  expect_refused([](auto& test) { test.call.query = at::Tensor(); }, "probabilities, or query and key");
  expect_refused([](auto& test) { test.call.mask = at::ones({6, 7}, at::kBool); }, "mask must broadcast");
  expect_refused([](auto& test) { test.call.mask = at::ones({6, 6}, at::kLong); }, "mask must be bool or floating");
  expect_refused([](auto& test) { test.call.probabilities = at::rand({2, 4, 6, 6}); }, "beside probabilities");
  expect_refused([](auto& test) { test.call.log_sum_exp = at::rand({2, 4, 7}); }, "log_sum_exp must be");
  expect_refused([](auto& test) { test.tokens.query_position = at::Tensor(); }, "must be defined");
  expect_refused([](auto& test) { test.tokens.key_position = test.tokens.key_position.to(at::kLong); }, "key_position");
  expect_refused([](auto& test) { test.tokens.num_regions = 17; }, "num_regions");
  expect_refused([](auto& test) { test.tokens.sampled = at::ones({2, 5}, at::kBool); }, "sampled");
}

TEST(AttentionRowsTest, CodesOfScoresKeepTheirOrder) {
  const std::vector<float> scores = {-HUGE_VALF, -1e30F, -2, -1e-40F, 0, 1e-40F, 1, 3e38F, HUGE_VALF};
  for (size_t i = 0; i < scores.size(); ++i) {
    EXPECT_EQ(score_of_code(score_code(scores[i])), scores[i]);
    EXPECT_GT(score_code(scores[i]), i == 0 ? 0 : score_code(scores[i - 1]));
  }
}

}  // namespace
}  // namespace moetap::analysis
