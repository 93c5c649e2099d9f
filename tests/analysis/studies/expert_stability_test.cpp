#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(ExpertStability, CoefficientOfVariation) {
  TestArrays arrays(2, 1, 1, 3, 2);
  arrays.ids = {0, 1, 0, 1};
  arrays.gates = {.5, .5, .25, .75};
  const Result result = result_of(make_expert_stability, arrays);
  EXPECT_EQ(header(result, "expert_stability"), "expert_id,stability");
  // Expert 0: .5, .25: mean .375, sd .125; expert 1: .5, .75: mean .625, sd .125; expert 2 is never used.
  EXPECT_EQ(column(result, "expert_stability", "expert_id"), (std::vector<double>{1, 0, 2}));
  const std::vector<double> values = column(result, "expert_stability", "stability");
  EXPECT_NEAR(values[0], 1 / (1 + .125 / .625), 1e-15);
  EXPECT_NEAR(values[1], 1 / (1 + .125 / .375), 1e-15);
  EXPECT_TRUE(std::isnan(values[2]));
}

TEST(ExpertStability, NotebookPrefersDeadExperts) {
  TestArrays arrays(2, 1, 1, 3, 2);
  arrays.ids = {0, 1, 0, 1};
  arrays.gates = {.5, .5, .25, .75};
  const Result result = result_of(make_expert_stability, arrays, notebook_options());
  EXPECT_EQ(column(result, "expert_stability", "expert_id")[0], 2);
  EXPECT_EQ(column(result, "expert_stability", "stability")[0], 1);
  EXPECT_NEAR(column(result, "expert_stability", "stability")[1], 1e-10 / (.125 + 1e-10), 1e-18);
}

TEST(ExpertStability, MergesExactly) {
  const TestArrays arrays = random_arrays(6, 3, 8, 11, 6, 3);
  expect_exact_merge(make_expert_stability, arrays);
  expect_padding_is_not_data(make_expert_stability, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
