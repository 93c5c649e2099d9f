#include <gtest/gtest.h>

#include <vector>

#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(TopExperts, TheOneThatExceedsIsIncluded) {
  TestArrays arrays(1, 1, 1, 4, 3);
  arrays.ids = {2, 0, 3};
  arrays.gates = {.5, .25, .25};
  const Result result = result_of(make_top_experts, arrays);
  EXPECT_EQ(header(result, "top_experts"), "layer,rank,expert_id,importance,cumulative");
  EXPECT_EQ(column(result, "top_experts", "expert_id"), (std::vector<double>{2, 0, 3}));
  EXPECT_EQ(column(result, "top_experts", "cumulative"), (std::vector<double>{.5, .75, 1}));
  EXPECT_EQ(result.sentence, "3 experts of 4 have 100 % of the importance of layer 1, the most concentrated layer");
  StudyOptions options;
  options.threshold = .1;  // of the Sankeys
  expect_equal(result_of(make_top_experts, arrays, options), result);
}

TEST(TopExperts, MergesExactly) {
  const TestArrays arrays = random_arrays(6, 3, 8, 11, 6, 3);
  expect_exact_merge(make_top_experts, arrays);
  expect_padding_is_not_data(make_top_experts, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
