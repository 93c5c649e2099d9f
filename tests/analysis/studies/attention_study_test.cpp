#include "analysis/studies/attention_study.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

/// A run's layer: no padded length, and an id that is no place.
ComponentShape run_shape(const TestArrays& arrays) {
  ComponentShape shape = arrays.shape();
  shape.padded_length = 0;
  for (LayerShape& layer : shape.layers) layer.id = "model." + layer.id;
  return shape;
}

/// What a run writes: rows that sum to a key mass below 1, as beside a sink; zeros for every third query.
TestArrays recorded_arrays() {
  TestArrays arrays = random_arrays(81, 1, 4, 16, 3, 2, 5);
  for (int64_t b = 0; b < arrays.B; ++b) {
    for (int64_t i = 0; i < arrays.S; ++i) {
      const float key_mass = i % 3 == 2 ? 0 : i % 3 == 1 ? .25F : .75F;
      for (int64_t j = 0; j < arrays.S; ++j) arrays.attention[arrays.cell(0, b, i, j)] *= key_mass;
    }
  }
  return arrays;
}

/// The dump's values of the same rows.
void feed_stats(Study& study, const TestArrays& arrays) {
  const std::vector<std::string> columns = {"key_mass", "distance", "region.0", "region.1",
                                            "region.2", "region.3", "region.4"};
  for (int64_t b = 0; b < arrays.B; ++b) {
    const int64_t n = arrays.length(b);
    std::vector<int64_t> position, keys(static_cast<size_t>(n), n);
    std::vector<float> values;
    for (int64_t i = 0; i < n; ++i) {
      double mass = 0, distance = 0;
      std::vector<double> regions(5);
      for (int64_t j = 0; j < n; ++j) {
        const auto a = static_cast<double>(arrays.attention[arrays.cell(0, b, i, j)]);
        mass += a;
        distance += a * static_cast<double>(std::abs(i - j));
        for (int64_t r = 0; r < 5; ++r) {
          if (j >= r * n / 5 && j < (r + 1) * n / 5) regions[static_cast<size_t>(r)] += a;
        }
      }
      position.push_back(i);
      const double divisor = mass > 0 ? mass : 1;
      values.push_back(static_cast<float>(mass));
      values.push_back(static_cast<float>(distance / divisor));
      for (const double region : regions) values.push_back(static_cast<float>(region / divisor));
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
    study.observe(stats);
  }
}

/// Sums of the gates of each expert over measured rows, and of gate times distance.
std::pair<std::vector<double>, std::vector<double>> measured(const TestArrays& arrays) {
  std::vector<double> mass(static_cast<size_t>(arrays.E)), distance(mass.size());
  for (int64_t b = 0; b < arrays.B; ++b) {
    const int64_t n = arrays.length(b);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; i % 3 != 2 && k < arrays.K; ++k) {
        const size_t slot = arrays.slot(0, b, i, k);
        if (arrays.ids[slot] < 0) continue;
        const auto expert = static_cast<size_t>(arrays.ids[slot]);
        mass[expert] += arrays.gates[slot];
        for (int64_t j = 0; j < n; ++j) {
          distance[expert] += arrays.gates[slot] * static_cast<double>(arrays.attention[arrays.cell(0, b, i, j)]) *
                              static_cast<double>(std::abs(i - j));
        }
      }
    }
  }
  return {mass, distance};
}

TEST(AttentionStudy, MatrixAndValuesOfARunGiveTheSameTables) {
  const TestArrays arrays = recorded_arrays();
  const auto [mass, distance] = measured(arrays);
  const auto results = [&](Maker make) {
    const std::unique_ptr<Study> full = make(run_shape(arrays), {}), stats = make(run_shape(arrays), {});
    feed(*full, arrays, {0, 1, 2, 3});
    feed_stats(*stats, arrays);
    return std::pair(full->finalize(), stats->finalize());
  };
  const auto [full, stats] = results(make_expert_attention_patterns);
  for (const char* const name : {"gate_mass", "gate_share", "mean_distance"}) {
    const auto a = column(full, "expert_attention_summary", name), b = column(stats, "expert_attention_summary", name);
    for (size_t e = 0; e < a.size(); ++e) EXPECT_NEAR(a[e], b[e], 1e-6 * a[e]) << name << e;
  }
  for (size_t e = 0; e < mass.size(); ++e) {
    EXPECT_NEAR(column(full, "expert_attention_summary", "gate_mass")[e], mass[e], 1e-12);
    EXPECT_NEAR(column(full, "expert_attention_summary", "mean_distance")[e], distance[e] / mass[e], 1e-10);
  }
  EXPECT_NE(full.sentence.find("of layer model.0 look"), std::string::npos) << full.sentence;
  const auto [flow, flow_of_stats] = results(make_information_flow);
  for (const char* const name : {"share", "weight"}) {
    const auto a = column(flow, "information_flow", name), b = column(flow_of_stats, "information_flow", name);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6) << name << i;
  }
}

TEST(AttentionStudy, ARowOfZerosInArraysIsARow) {
  const TestArrays arrays = recorded_arrays();
  const Result as_arrays = result_of(make_expert_attention_patterns, arrays);
  EXPECT_GT(column(as_arrays, "expert_attention_summary", "gate_mass")[0], measured(arrays).first[0] + .1);
  EXPECT_NE(as_arrays.sentence.find("of layer 1 look"), std::string::npos) << as_arrays.sentence;
}

TEST(AttentionStudy, PatternsAreOfMeasuredRows) {
  const TestArrays arrays = recorded_arrays();
  StudyOptions options;
  options.matrices = true;
  const std::unique_ptr<Study> study = make_expert_attention_patterns(run_shape(arrays), options);
  feed(*study, arrays, {0, 1, 2, 3});
  const Matrix matrix = study->finalize().matrices.at(0);
  for (size_t row = 0; row < 3 * 16; ++row) {
    double sum = 0;
    for (size_t j = 0; j < 16; ++j) sum += static_cast<double>(matrix.values[row * 16 + j]);
    if (sum == 0) continue;
    EXPECT_NEAR(sum, row % 16 % 3 == 1 ? .25 : .75, 1e-5) << row;
  }
}

TEST(AttentionStudy, SaysWhyThereIsNoValue) {
  const TestArrays arrays = recorded_arrays();
  const std::unique_ptr<Study> study = make_region_specialization(run_shape(arrays), {});
  EXPECT_EQ(study->finalize().sentence, "no attention was seen");
  const std::unique_ptr<Study> other = make_region_specialization(run_shape(arrays), {});
  feed_stats(*other, arrays);
  ByteSink sink;
  other->save(sink);
  ByteSource source(sink.bytes());
  const std::unique_ptr<Study> loaded = make_region_specialization(run_shape(arrays), {});
  loaded->load(source);
  study->merge(*loaded);
  const Result result = study->finalize();
  EXPECT_EQ(result.sentence.find("statistics of attention were seen"), 0U) << result.sentence;
  EXPECT_TRUE(result.notices.empty());
}

TEST(AttentionStudy, SaysThatStatisticsHaveOneKindOfRegions) {
  const TestArrays arrays = recorded_arrays();
  StudyOptions absolute;
  absolute.absolute_regions = true;
  for (const StudyOptions& options : {StudyOptions(), absolute, notebook_options()}) {
    const std::unique_ptr<Study> full = make_information_flow(run_shape(arrays), options);
    feed(*full, arrays, {0, 1, 2, 3});
    EXPECT_TRUE(full->finalize().notices.empty());
    const std::unique_ptr<Study> stats = make_information_flow(run_shape(arrays), options);
    feed_stats(*stats, arrays);
    const bool is_other = options.absolute_regions || options.definitions == Definitions::kNotebook;
    EXPECT_EQ(stats->finalize().notices.size(), is_other ? 1U : 0U);
  }
}

TEST(AttentionStudy, RefusesTotalsOfOtherExperts) {
  const TestArrays arrays = recorded_arrays();
  for (const int64_t experts : {1, 2, 4}) {
    ComponentShape other = run_shape(arrays);
    other.layers[0].num_experts = experts;
    const auto n = static_cast<size_t>(experts);
    const std::vector<double> mass(n), distance(n), flow(n * 25), weight(n * 5), specialization(n * 6);
    const std::unique_ptr<Study> study = make_region_specialization(other, {});
    study->observe(AttentionTotals{0, experts, 5, mass, distance, flow, weight, specialization});
    ByteSink sink;
    study->save(sink);
    ByteSource source(sink.bytes());
    EXPECT_THROW(make_region_specialization(run_shape(arrays), {})->load(source), std::runtime_error) << experts;
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
