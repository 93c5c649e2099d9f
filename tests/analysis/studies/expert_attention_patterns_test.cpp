#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "analysis/studies/attention_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(ExpertAttentionPatterns, AgreesWithLoops) {
  const TestArrays arrays = random_arrays(41, 2, 8, 23, 4, 2);
  StudyOptions options;
  options.matrices = true;
  for (const bool notebook : {false, true}) {
    if (notebook) options.definitions = Definitions::kNotebook;
    const Result result = result_of(make_expert_attention_patterns, arrays, options);
    EXPECT_EQ(header(result, "expert_attention_summary"),
              "layer,expert_id,gate_mass,gate_share,mean_distance,strength_nb");
    ASSERT_EQ(result.matrices.size(), 2U);
    EXPECT_EQ(result.matrices[1].name, "expert_attention_patterns_layer2");
    EXPECT_EQ(result.matrices[1].shape, (std::vector<int64_t>{4, 23, 23}));
    for (int64_t l = 0; l < 2; ++l) {
      std::vector<double> mass(4), distance(4), weights(4 * 23), recommended(4 * 23 * 23), stripes(4 * 23 * 23);
      for_each_slot(arrays, l, [&](int64_t, int64_t n, int64_t i, const std::vector<double>& row, int64_t e, double g) {
        mass[static_cast<size_t>(e)] += g;
        weights[static_cast<size_t>(e * 23 + i)] += g;
        for (int64_t j = 0; j < n; ++j) {
          const double value = g * row[static_cast<size_t>(j)];
          distance[static_cast<size_t>(e)] += value * static_cast<double>(std::abs(i - j));
          recommended[static_cast<size_t>((e * 23 + i) * 23 + j)] += value;
          for (int64_t query = 0; query < n; ++query) stripes[static_cast<size_t>((e * 23 + query) * 23 + j)] += value;
        }
      });
      double all = 0;
      for (const double one : mass) all += one;
      for (size_t e = 0; e < 4; ++e) {
        const size_t at = static_cast<size_t>(l) * 4 + e;
        double strength = 0;
        for (size_t cell = 0; cell < 23 * 23; ++cell) {
          const size_t place = e * 23 * 23 + cell;
          strength += stripes[place] / mass[e] / (23 * 23);
          const double weight = weights[e * 23 + cell / 23];
          const double value = notebook ? stripes[place] / mass[e] : weight > 0 ? recommended[place] / weight : 0;
          EXPECT_NEAR(static_cast<double>(result.matrices[static_cast<size_t>(l)].values[place]), value,
                      1e-7 * std::abs(value) + 1e-13);
        }
        expect_close(column(result, "expert_attention_summary", "gate_mass")[at], mass[e], "gate_mass");
        expect_close(column(result, "expert_attention_summary", "gate_share")[at], mass[e] / all, "gate_share");
        expect_close(column(result, "expert_attention_summary", "mean_distance")[at], distance[e] / mass[e],
                     "mean_distance");
        expect_close(column(result, "expert_attention_summary", "strength_nb")[at], strength, "strength_nb");
      }
    }
  }
}

TEST(ExpertAttentionPatterns, RowsSumToOneOrZero) {
  StudyOptions options;
  options.matrices = true;
  const TestArrays arrays = random_arrays(42, 1, 5, 19, 4, 2);
  const Matrix matrix = result_of(make_expert_attention_patterns, arrays, options).matrices.at(0);
  int64_t ones = 0;
  for (size_t row = 0; row < 4 * 19; ++row) {
    double sum = 0;
    for (size_t j = 0; j < 19; ++j) sum += static_cast<double>(matrix.values[row * 19 + j]);
    EXPECT_TRUE(std::abs(sum - 1) < 1e-5 || sum == 0) << row << ": " << sum;
    ones += sum != 0;
  }
  EXPECT_GT(ones, 0);
}

TEST(ExpertAttentionPatterns, UniformAttentionHasTheMeanDistance) {
  TestArrays arrays(1, 1, 8, 1, 1);
  arrays.gates.assign(8, .5);
  arrays.attention.assign(64, .125F);
  const Result result = result_of(make_expert_attention_patterns, arrays);
  EXPECT_EQ(column(result, "expert_attention_summary", "mean_distance")[0], 168.0 / 64);  // mean of |i - j|
}

TEST(ExpertAttentionPatterns, SharesAScratch) {
  const TestArrays arrays = random_arrays(71, 2, 40, 9, 4, 2);
  expect_equal(result_of(make_expert_attention_patterns, arrays),
               result_of(make_expert_attention_patterns, arrays, {}, {.scratch = true}));
}

TEST(ExpertAttentionPatterns, MergesExactly) {
  const TestArrays arrays = random_arrays(43, 2, 9, 20, 4, 2);
  StudyOptions with, notebook = notebook_options();
  with.matrices = notebook.matrices = true;
  expect_exact_merge(make_expert_attention_patterns, arrays, with);
  expect_exact_merge(make_expert_attention_patterns, arrays, notebook);
  expect_padding_is_not_data(make_expert_attention_patterns, arrays);
  expect_equal(result_of(make_expert_attention_patterns, arrays, with),
               result_of(make_expert_attention_patterns, arrays, with, {.query_block = 1}));
}

TEST(ExpertAttentionPatterns, DuplicatesChangeNoNormalizedNumber) {
  const TestArrays arrays = random_arrays(44, 1, 6, 20, 4, 2);
  const std::unique_ptr<Study> study = make_expert_attention_patterns(arrays.shape(), {});
  feed(*study, arrays, {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5});
  const Result once = result_of(make_expert_attention_patterns, arrays), twice = study->finalize();
  for (const char* const name : {"gate_share", "mean_distance", "strength_nb"}) {
    const auto a = column(once, "expert_attention_summary", name), b = column(twice, "expert_attention_summary", name);
    for (size_t i = 0; i < a.size(); ++i) expect_close(b[i], a[i], name);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
