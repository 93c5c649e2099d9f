#include "analysis/attention/attention_rows.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/attention/attention_paths.h"
#include "tests/analysis/attention/attention_calls.h"
#include "tests/analysis/attention/compare_rows.h"

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

TEST(AttentionRowsTest, RowsThatAreNoProbabilitiesAreCounted) {
  AttentionCall call;
  call.probabilities = at::full({2, 3, 4, 5}, 0.2, at::kFloat);
  AttentionTokens tokens;
  tokens.query_position = at::arange(4, at::kInt).expand({2, 4}).contiguous();
  tokens.key_position = at::arange(5, at::kInt).expand({2, 5}).contiguous();
  const auto count = [&] { return count_improbable_rows(call, tokens).item<int64_t>(); };
  EXPECT_EQ(count(), 0);
  call.probabilities[0][1][2] = at::tensor({0.5F, 0.7F, -0.2F, 0.0F, 0.0F});  // sums to 1
  call.probabilities[1][0][3] = 0.21;                                         // sums to 1.05
  call.probabilities[1][2][3] = 0.9;                                          // the same row by another head
  EXPECT_EQ(count(), 2);
  tokens.query_position[1][3] = -1;  // padding
  EXPECT_EQ(count(), 1);
  call.probabilities[0][1][2] = at::tensor({0.1F, 0.2F, 0.3F, 0.0F, 0.0F});  // a sink took the rest
  EXPECT_EQ(count(), 0);
  call.probabilities[0][0][0] = NAN;  // told as a row that is not finite
  EXPECT_EQ(count(), 0);
  call.probabilities = (call.probabilities * 2).to(at::kBFloat16);
  EXPECT_EQ(count(), 7);
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
