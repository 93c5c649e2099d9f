#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "analysis/studies/attention_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

/// The table by loops.
std::vector<double> flow_by_loops(const TestArrays& arrays, int64_t l, int64_t R, bool notebook, bool absolute) {
  std::vector<double> flow(static_cast<size_t>(arrays.E * R * R));
  for_each_slot(arrays, l, [&](int64_t, int64_t n, int64_t i, const std::vector<double>& row, int64_t e, double g) {
    const int64_t length = notebook || absolute ? arrays.S : n;
    const auto region = [&](int64_t place) {
      int64_t found = 0;
      while ((found + 1) * length / R <= place) ++found;
      return found;
    };
    double sum = notebook ? 1e-10 : 0;
    for (const double a : row) sum += a;
    for (int64_t j = 0; j < n; ++j) {
      flow[static_cast<size_t>((e * R + region(i)) * R + region(j))] += g * row[static_cast<size_t>(j)] / sum;
    }
  });
  return flow;
}

TEST(InformationFlow, AgreesWithLoops) {
  const TestArrays arrays = random_arrays(31, 2, 8, 23, 4, 2);
  for (int variant = 0; variant < 4; ++variant) {
    StudyOptions options = variant == 1 ? notebook_options() : StudyOptions{};
    options.absolute_regions = variant == 2;
    options.regions = variant == 3 ? 3 : 5;
    const int64_t R = options.regions;
    const Result result = result_of(make_information_flow, arrays, options);
    EXPECT_EQ(header(result, "information_flow"), "layer,expert_id,from_region,to_region,share,weight");
    const auto share = column(result, "information_flow", "share"),
               weight = column(result, "information_flow", "weight");
    ASSERT_EQ(share.size(), static_cast<size_t>(2 * 4 * R * R));
    for (int64_t l = 0; l < 2; ++l) {
      const std::vector<double> flow = flow_by_loops(arrays, l, R, variant == 1, variant == 2);
      for (size_t row = 0; row < static_cast<size_t>(4 * R); ++row) {
        double sum = 0;
        for (size_t t = 0; t < static_cast<size_t>(R); ++t) sum += flow[row * static_cast<size_t>(R) + t];
        for (size_t t = 0; t < static_cast<size_t>(R); ++t) {
          const size_t at = row * static_cast<size_t>(R) + t, place = static_cast<size_t>(l * 4 * R * R) + at;
          expect_close(weight[place], sum, "weight");
          expect_close(share[place], sum > 0 ? flow[at] / sum : 0, "share");
        }
      }
    }
    EXPECT_EQ(column(result, "information_flow", "from_region")[static_cast<size_t>(R)], 2);
  }
}

TEST(InformationFlow, RowsWithoutMassAreSkipped) {
  TestArrays arrays(1, 1, 2, 1, 1);
  arrays.gates = {.5, .5};
  arrays.attention = {0, 0, .25, .75};
  StudyOptions options;
  options.regions = 2;
  const Result result = result_of(make_information_flow, arrays, options);
  EXPECT_EQ(column(result, "information_flow", "weight"), (std::vector<double>{0, 0, .5, .5}));
  EXPECT_EQ(column(result, "information_flow", "share"), (std::vector<double>{0, 0, .25, .75}));
}

TEST(InformationFlow, SharesAScratch) {
  const TestArrays arrays = random_arrays(71, 2, 40, 9, 4, 2);
  expect_equal(result_of(make_information_flow, arrays),
               result_of(make_information_flow, arrays, {}, {.scratch = true}));
}

TEST(InformationFlow, MergesExactly) {
  const TestArrays arrays = random_arrays(32, 2, 9, 20, 4, 2);
  expect_exact_merge(make_information_flow, arrays);
  expect_exact_merge(make_information_flow, arrays, notebook_options());
  expect_padding_is_not_data(make_information_flow, arrays);
  expect_equal(result_of(make_information_flow, arrays),
               result_of(make_information_flow, arrays, {}, {.query_block = 4}));
}

TEST(InformationFlow, RowsOfTheDumpAndTheSummaryGiveTheSameTable) {
  const TestArrays arrays = random_arrays(33, 1, 4, 16, 3, 2, 5);
  const Result expected = result_of(make_information_flow, arrays);
  const std::unique_ptr<Study> rows = make_information_flow(arrays.shape(), {});
  const std::vector<std::string> columns = {"distance", "region.0", "region.1", "region.2", "region.3", "region.4"};
  for (int64_t b = 0; b < arrays.B; ++b) {
    const int64_t n = arrays.length(b);
    std::vector<int64_t> position, keys(static_cast<size_t>(n), n);
    std::vector<float> values;
    for (int64_t i = 0; i < n; ++i) {
      position.push_back(i);
      values.push_back(0);
      for (int64_t r = 0; r < 5; ++r) {
        double mass = 0, sum = 0;
        for (int64_t j = 0; j < n; ++j) {
          const auto a = static_cast<double>(arrays.attention[arrays.cell(0, b, i, j)]);
          sum += a;
          if (j >= r * n / 5 && j < (r + 1) * n / 5) mass += a;
        }
        values.push_back(static_cast<float>(mass / sum));
      }
    }
    AttentionStats stats;
    stats.sample = b;
    stats.num_queries = n;
    stats.position = position;
    stats.num_keys = keys;
    stats.columns = columns;
    stats.values = values;
    const size_t slot = arrays.slot(0, b, 0, 0), slots = static_cast<size_t>(n * arrays.K);
    stats.tokens.num_experts = arrays.E;
    stats.tokens.top_k = arrays.K;
    stats.tokens.ids = {arrays.ids.data() + slot, slots};
    stats.tokens.gates = {arrays.gates.data() + slot, slots};
    rows->observe(stats);
  }
  const std::vector<double> share = column(expected, "information_flow", "share");
  const std::vector<double> of_rows = column(rows->finalize(), "information_flow", "share");
  for (size_t i = 0; i < share.size(); ++i) EXPECT_NEAR(share[i], of_rows[i], 1e-6);
  std::vector<double> weight;
  const std::vector<double> weights = column(expected, "information_flow", "weight");
  for (size_t i = 0; i < weights.size(); i += 5) weight.push_back(weights[i]);
  const std::vector<double> mass(3), distance(3), specialization(18);
  const std::unique_ptr<Study> summary = make_information_flow(arrays.shape(), {});
  summary->observe(AttentionTotals{0, 3, 5, mass, distance, share, weight, specialization});
  const std::vector<double> of_summary = column(summary->finalize(), "information_flow", "share");
  for (size_t i = 0; i < share.size(); ++i) EXPECT_NEAR(share[i], of_summary[i], 1e-12);
  StudyOptions other;
  other.regions = 4;
  const std::unique_ptr<Study> refused = make_information_flow(arrays.shape(), other);
  AttentionStats stats;
  stats.columns = columns;
  EXPECT_THROW(refused->observe(stats), std::runtime_error);
}

}  // namespace
}  // namespace moetap::analysis::studies
