#include "analysis/attention/attention_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/analysis/attention/attention_calls.h"

namespace moetap::analysis {
namespace {

AttentionSums sums_of(const AttentionRows& rows, int64_t num_experts = 0) {
  AttentionSums sums = empty_attention_sums(rows.num_heads, rows.num_regions, rows.self, num_experts, 1);
  add_rows(sums, rows, at::zeros({rows.num_sequences}, at::kLong));
  return sums;
}

AttentionMetrics metrics_of(const CallOfTest& test) {
  return finalize(sums_of(measure_attention(test.call, test.tokens)));
}

/// The tables of experts, straight from a matrix of attention as studies hold it: A [B, S, S] of valid tokens, which
/// end at n of each sequence.
struct PlainExperts {
  std::vector<double> mass, distance, flow, flow_weight, observed, expected, pattern, pattern_weight;

  PlainExperts(const at::Tensor& matrix, const std::vector<int64_t>& lengths, const at::Tensor& selected,
               const at::Tensor& weights, int64_t experts, int64_t regions) {
    mass.resize(experts), distance.resize(experts), flow_weight.resize(experts * regions);
    flow.resize(experts * regions * regions), observed.resize(experts * 6), expected.resize(experts * 6);
    pattern.resize(experts * 256), pattern_weight.resize(experts * 16);
    const auto a = matrix.accessor<float, 3>();
    const int64_t size = matrix.size(1);
    for (size_t b = 0; b < lengths.size(); ++b) {
      const int64_t n = lengths[b];
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < selected.size(1); ++k) {
          const int64_t token = static_cast<int64_t>(b) * size + i;
          const int64_t e = selected[token][k].item<int64_t>();
          const double g = weights[token][k].item<double>();
          mass[e] += g;
          flow_weight[e * regions + part(i, n, regions)] += g;
          pattern_weight[e * 16 + 16 * i / n] += g;
          for (int64_t j = 0; j < n; ++j) {
            const double p = a[static_cast<int64_t>(b)][i][j];
            distance[e] += g * p * static_cast<double>(std::abs(i - j));
            flow[(e * regions + part(i, n, regions)) * regions + part(j, n, regions)] += g * p;
            pattern[(e * 16 + 16 * i / n) * 16 + 16 * j / n] += g * p;
            const int64_t q = n / 4, c = 3 * n / 4;
            const bool in[6] = {std::abs(i - j) <= 5, std::abs(i - j) > n / 2, i < q && j < q,
                                i >= c && j >= c,     i < q && j >= c,         i >= c && j < q};
            for (int64_t r = 0; r < 6; ++r) {
              observed[e * 6 + r] += in[r] ? g * p : 0;
              expected[e * 6 + r] += in[r] ? g / static_cast<double>(n) : 0;
            }
          }
        }
      }
    }
  }

  static int64_t part(int64_t s, int64_t n, int64_t regions) {
    int64_t r = 0;
    while (r + 1 < regions && (r + 1) * n / regions <= s) ++r;
    return r;
  }
};

TEST(AttentionMetricsTest, TablesNameEachMemberOnce) {
  std::set<std::string> names;
  for (const AttentionMetric& metric : kAttentionMetrics) EXPECT_TRUE(names.insert(metric.name).second) << metric.name;
  names.clear();
  for (const AttentionExpertMetric& metric : kAttentionExpertMetrics) {
    EXPECT_TRUE(names.insert(metric.name).second) << metric.name;
  }
  const std::vector<AttentionColumn> self = attention_columns(2, true), cross = attention_columns(2, false);
  std::vector<std::string> columns;
  for (const AttentionColumn& column : self) columns.push_back(column.name);
  EXPECT_EQ(columns, (std::vector<std::string>{"entropy", "max_weight", "key_mass", "distance", "self", "diagonal",
                                               "diagonal_expected", "far", "far_expected", "first", "last", "region.0",
                                               "region.1", "received"}));
  EXPECT_EQ(self.back().column, received_column(2));
  EXPECT_EQ(cross.size(), self.size() - 2);
}

TEST(AttentionMetricsTest, UniformAttentionIsNotSpecial) {
  CallOfTest test = random_call({2, 2, 2, 60, 60, 8});
  test.tokens.query_position = test.tokens.key_position = positions_of({60, 21}, 60);
  test.call.query.zero_();
  test.call.mask = (test.tokens.key_position >= 0).view({2, 1, 1, 60});
  const AttentionMetrics m = metrics_of(test);
  EXPECT_EQ(m.rows, 81);
  for (const std::optional<double>& value : m.specialization) EXPECT_NEAR(value.value(), 1, 1e-6);
  EXPECT_NEAR(*m.entropy, (60 * std::log(60.0) + 21 * std::log(21.0)) / 81, 1e-6);
  EXPECT_NEAR(*m.max_weight, (1.0 + 1.0) / 81, 1e-6);
  EXPECT_NEAR(*m.received, 1, 1e-6);
  EXPECT_NEAR(*m.key_mass, 1, 1e-6);
  EXPECT_NEAR(*m.diagonal, *m.diagonal_expected, 1e-6);
  EXPECT_NEAR(*m.far, *m.far_expected, 1e-6);
  // The mean of |i - j| over n x n is (n^2 - 1) / 3n.
  EXPECT_NEAR(*m.distance, ((60 * 60 - 1) / 3.0 + (21 * 21 - 1) / 3.0) / 81, 1e-5);
  for (size_t i = 0; i < m.flow.size(); ++i) EXPECT_NEAR(m.flow[i].value(), 0.2, 0.02);
  for (int h = 0; h < 2; ++h) {
    EXPECT_NEAR(m.head_entropy[h].value(), *m.entropy, 1e-6);
    EXPECT_NEAR(m.head_distance[h].value(), *m.distance, 2e-5);
    EXPECT_NEAR(m.head_first[h].value(), *m.first, 1e-6);
    EXPECT_EQ(m.head_max_logit[h].value(), 0);
  }
  EXPECT_FALSE(m.standard_error.has_value());
}

TEST(AttentionMetricsTest, FourTokensByHand) {
  CallOfTest test;
  test.call.probabilities = at::tensor({1.0, 0.0, 0.0, 0.0,    //
                                        0.5, 0.5, 0.0, 0.0,    //
                                        0.25, 0.25, 0.5, 0.0,  //
                                        0.125, 0.125, 0.25, 0.5},
                                       at::kDouble)
                                .view({1, 1, 4, 4});
  test.tokens.query_position = test.tokens.key_position = positions_of({4}, 4);
  test.tokens.num_regions = 2;
  const AttentionRows rows = measure_attention(test.call, test.tokens);
  AttentionSums sums = sums_of(rows, 2);
  add_experts(sums, rows, at::zeros({4}, at::kLong), at::tensor({0, 0, 1, 1}, at::kLong).view({4, 1}),
              at::tensor({1.0, 0.5, 2.0, 1.0}).view({4, 1}));
  const AttentionMetrics m = finalize(sums);
  EXPECT_EQ(m.rows, 4);
  EXPECT_NEAR(*m.distance, (0 + 0.5 + 0.75 + 0.875) / 4, 1e-9);
  EXPECT_NEAR(*m.self_weight, (1 + 0.5 + 0.5 + 0.5) / 4, 1e-9);
  EXPECT_NEAR((*m.region_mass)[0], (1 + 1 + 0.5 + 0.25) / 4, 1e-9);
  EXPECT_NEAR(*m.flow[0], 1, 1e-9);
  EXPECT_NEAR(*m.flow[2], 0.75 / 2, 1e-9);
  EXPECT_NEAR(*m.flow[3], 1.25 / 2, 1e-9);
  EXPECT_NEAR(*m.specialization[kNTerminal], 1 / 0.25, 1e-9);
  EXPECT_NEAR(*m.specialization[kCTerminal], 0.5 / 0.25, 1e-9);
  EXPECT_NEAR(*m.specialization[kNToC], 0, 1e-9);
  EXPECT_NEAR(*m.specialization[kCToN], 0.125 / 0.25, 1e-9);
  EXPECT_FALSE(m.head_max_logit[0].has_value()) << "scores are not known";
  const AttentionExpertMetrics e = finalize_experts(sums);
  EXPECT_EQ(e.gate_mass, (std::vector<double>{1.5, 3}));
  EXPECT_NEAR(*e.mean_distance[0], 0.25 / 1.5, 1e-9);
  EXPECT_NEAR(*e.mean_distance[1], (1.5 + 0.875) / 3, 1e-9);
  EXPECT_NEAR(*e.received[0], 1.875 + 0.5 * 0.875, 1e-9);
  EXPECT_EQ(e.flow_weight, (std::vector<double>{1.5, 0, 0, 3}));
  EXPECT_NEAR(e.flow[(1 * 2 + 1) * 2 + 0], (2 * 0.5 + 0.25) / 3, 1e-9);
  EXPECT_EQ(e.flow[0 * 2 + 2], 0) << "expert 0 has no token in region 1";
  EXPECT_FALSE(e.specialization[0 * 6 + kCTerminal].has_value());
  EXPECT_NEAR(*e.specialization[1 * 6 + kCTerminal], 2, 1e-9);
  EXPECT_NEAR(e.pattern[(1 * 16 + 12) * 16 + 8], 0.25, 1e-9);
}

TEST(AttentionMetricsTest, ExpertsAreThoseOfTheMatrix) {
  const std::vector<int64_t> lengths = {50, 37, 3};
  constexpr int64_t kExperts = 5, kRegions = 5;
  CallOfTest test = random_call({3, 4, 2, 50, 50, 16});
  test.call.query.mul_(3);
  test.tokens.query_position = test.tokens.key_position = positions_of(lengths, 50);
  test.call.mask = (test.tokens.key_position >= 0).view({3, 1, 1, 50});
  const AttentionRows rows = measure_attention(test.call, test.tokens, {/*matrix=*/true});
  const at::Tensor selected = at::randint(0, kExperts, {150, 3}, at::kLong), weights = at::rand({150, 3});
  AttentionSums sums = sums_of(rows, kExperts);
  add_experts(sums, rows, at::zeros({3}, at::kLong), selected, weights);
  const AttentionExpertMetrics e = finalize_experts(sums);
  const PlainExperts plain(rows.matrix, lengths, selected, weights, kExperts, kRegions);
  for (int64_t x = 0; x < kExperts; ++x) {
    EXPECT_NEAR(e.gate_mass[x], plain.mass[x], 1e-9);
    EXPECT_NEAR(*e.mean_distance[x], plain.distance[x] / plain.mass[x], 1e-5);
    for (int64_t f = 0; f < kRegions; ++f) {
      const double weight = plain.flow_weight[x * kRegions + f];
      EXPECT_NEAR(e.flow_weight[x * kRegions + f], weight, 1e-5);
      for (int64_t t = 0; t < kRegions; ++t) {
        const int64_t cell = (x * kRegions + f) * kRegions + t;
        EXPECT_NEAR(e.flow[cell], weight > 0 ? plain.flow[cell] / weight : 0, 1e-6);
      }
    }
    for (int64_t r = 0; r < 6; ++r) {
      ASSERT_EQ(e.specialization[x * 6 + r].has_value(), plain.expected[x * 6 + r] > 0);
      if (!e.specialization[x * 6 + r]) continue;
      EXPECT_NEAR(*e.specialization[x * 6 + r], plain.observed[x * 6 + r] / plain.expected[x * 6 + r], 1e-5);
    }
    for (int64_t cell = 0; cell < 256; ++cell) {
      const double weight = plain.pattern_weight[x * 16 + cell / 16];
      EXPECT_NEAR(e.pattern[x * 256 + cell], weight > 0 ? plain.pattern[x * 256 + cell] / weight : 0, 1e-6);
    }
  }
}

TEST(AttentionMetricsTest, PaddingLeftOrRightChangesNothing) {
  CallOfTest test = random_call({1, 2, 2, 40, 40, 16});
  test.call.causal = true;
  const AttentionMetrics expected = metrics_of(test);
  for (const int64_t left : {0, 13}) {
    CallOfTest padded = test;
    padded.call.query = at::constant_pad_nd(test.call.query, {0, 0, left, 20 - left}, 3);
    padded.call.key = at::constant_pad_nd(test.call.key, {0, 0, left, 20 - left}, 3);
    padded.tokens.query_position = at::constant_pad_nd(test.tokens.query_position, {left, 20 - left}, -1);
    padded.tokens.key_position = padded.tokens.query_position;
    padded.call.mask = (padded.tokens.key_position >= 0).view({1, 1, 1, 60});
    const AttentionMetrics m = metrics_of(padded);
    EXPECT_EQ(m.rows, expected.rows);
    EXPECT_EQ(m.distance, expected.distance);
    EXPECT_EQ(m.entropy, expected.entropy);
    EXPECT_EQ(m.received, expected.received);
    EXPECT_EQ(m.region_mass, expected.region_mass);
    EXPECT_EQ(m.flow, expected.flow);
    EXPECT_EQ(m.specialization, expected.specialization);
    EXPECT_EQ(m.head_entropy, expected.head_entropy);
    EXPECT_EQ(m.head_max_logit, expected.head_max_logit);
  }
}

TEST(AttentionMetricsTest, SampledMeansAreEstimatesOfAllRows) {
  CallOfTest test = random_call({2, 2, 2, 400, 400, 16});
  test.tokens.query_position = test.tokens.key_position = positions_of({400, 90}, 400);
  test.call.mask = (test.tokens.key_position >= 0).view({2, 1, 1, 400});
  test.call.causal = true;
  const AttentionRows whole = measure_attention(test.call, test.tokens);
  const AttentionMetrics expected = finalize(sums_of(whole));
  // As many rows of both samples: the mean over rows is not the mean over those measured.
  test.tokens.sampled = at::zeros({2, 400}, at::kBool);
  for (int64_t b = 0; b < 2; ++b) {
    test.tokens.sampled[b].index_fill_(0, at::randperm(b == 0 ? 400 : 90).narrow(0, 0, 45), true);
  }
  const AttentionMetrics m = metrics_of(test);
  EXPECT_EQ(m.rows, 90);
  EXPECT_EQ(m.not_sampled_rows, 400);
  const std::vector<AttentionColumn> columns = attention_columns(5, true);
  ASSERT_EQ(m.standard_error->size(), columns.size());
  const auto error_of = [&](const char* name) {
    for (size_t i = 0; i < columns.size(); ++i) {
      if (columns[i].name == name) return (*m.standard_error)[i];
    }
    return 0.0;
  };
  EXPECT_NEAR(*m.distance, *expected.distance, 4 * error_of("distance"));
  EXPECT_NEAR(*m.entropy, *expected.entropy, 4 * error_of("entropy"));
  EXPECT_NEAR(*m.received, *expected.received, 4 * error_of("received"));
  // By the formula, from the rows.
  double variance = 0;
  for (int64_t b = 0; b < 2; ++b) {
    const double size = b == 0 ? 400 : 90;
    const at::Tensor values = whole.values.view({2, 400, -1})[b].select(1, kDistance).index({test.tokens.sampled[b]});
    variance += size * size * (1 - 45 / size) * values.to(at::kDouble).var().item<double>() / 45;
  }
  EXPECT_NEAR(error_of("distance"), std::sqrt(variance) / 490, 1e-5 * error_of("distance"));
}

TEST(AttentionMetricsTest, NothingMeasuredGivesNoMeans) {
  CallOfTest test = random_call({1, 2, 2, 8, 8, 4});
  test.call.query[0][0][3].fill_(NAN);
  const AttentionMetrics m = metrics_of(test);
  EXPECT_EQ(m.rows, 7);
  EXPECT_EQ(m.not_finite_rows, 1);
  EXPECT_FALSE(m.entropy.has_value()) << "a row is missing";
  EXPECT_FALSE(m.region_mass.has_value());
  EXPECT_FALSE(m.head_entropy[1].has_value());
  const AttentionMetrics none = finalize(empty_attention_sums(2, 5, true, 0, 3));
  EXPECT_EQ(none.rows, 0);
  EXPECT_FALSE(none.distance.has_value());
  EXPECT_FALSE(none.flow[0].has_value());
  EXPECT_FALSE(none.head_max_logit[0].has_value());
  EXPECT_EQ(finalize(AttentionSums()).rows, 0);
}

}  // namespace
}  // namespace moetap::analysis
