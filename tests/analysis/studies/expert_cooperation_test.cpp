#include <gtest/gtest.h>

#include <vector>

#include "analysis/studies/expert_cooperation.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(ExpertCooperation, SharesLiftAndOrder) {
  TestArrays arrays(1, 1, 4, 4, 2);
  arrays.ids = {0, 1, 1, 0, 2, 1, 3, 3};
  arrays.gates = {.25, .25, .25, 1, .04, .25, .5, .5};
  const Result result = result_of(make_expert_cooperation, arrays);
  EXPECT_EQ(header(result, "expert_cooperation"), "layer,expert_a,expert_b,strength,share,tokens,lift");
  // Pairs (0, 1): .25 + .5; (1, 2): .1. The diagonal of 3 is left out.
  EXPECT_EQ(column(result, "expert_cooperation", "expert_a"), (std::vector<double>{0, 1}));
  EXPECT_EQ(column(result, "expert_cooperation", "expert_b"), (std::vector<double>{1, 2}));
  EXPECT_NEAR(column(result, "expert_cooperation", "strength")[0], .75, 1e-15);
  EXPECT_NEAR(column(result, "expert_cooperation", "share")[0], .75 / .85, 1e-15);
  EXPECT_EQ(column(result, "expert_cooperation", "tokens"), (std::vector<double>{2, 1}));
  EXPECT_NEAR(column(result, "expert_cooperation", "lift")[0], 2.0 * 4 / (2 * 3), 1e-15);
  const Result notebook = result_of(make_expert_cooperation, arrays, notebook_options());
  EXPECT_NEAR(column(notebook, "expert_cooperation", "share")[0], .75 / (2 * (.75 + .1 + .5) + 1e-10), 1e-15);
}

TEST(ExpertCooperation, SharesSumToOneAndMergeExactly) {
  const TestArrays arrays = random_arrays(8, 2, 9, 12, 5, 3);
  const Result result = result_of(make_expert_cooperation, arrays);
  const std::vector<double> share = column(result, "expert_cooperation", "share");
  const std::vector<double> layer = column(result, "expert_cooperation", "layer");
  double first = 0;
  for (size_t i = 0; i < share.size(); ++i) first += layer[i] == 1 ? share[i] : 0;
  EXPECT_NEAR(first, 1, 1e-12);
  expect_exact_merge(make_expert_cooperation, arrays);
  expect_exact_merge(make_expert_cooperation, arrays, notebook_options());
  expect_padding_is_not_data(make_expert_cooperation, arrays);
}

TEST(ExpertCooperation, NegativeGatesAreNamed) {
  TestArrays arrays(1, 1, 1, 2, 2);
  arrays.ids = {0, 1};
  arrays.gates = {.5, -.5};
  const Result result = result_of(make_expert_cooperation, arrays);
  ASSERT_EQ(result.notices.size(), 1U);
  EXPECT_EQ(column(result, "expert_cooperation", "strength")[0], 0);
}

}  // namespace
}  // namespace moetap::analysis::studies
