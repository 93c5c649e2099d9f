#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(ExpertUsage, SharesOfSelectionsAndGates) {
  const Result result = result_of(make_expert_usage, hand_arrays());
  EXPECT_EQ(header(result, "expert_usage"), "layer,expert_id,usage,importance");
  EXPECT_EQ(column(result, "expert_usage", "usage"), (std::vector<double>{.4, .4, .2, .2, .4, .4}));
  // Layer 1: 2, 1.75 and .5 of 4.25; layer 2: .5, 1.75, 2.5 of 4.75.
  const std::vector<double> expected = {2 / 4.25, 1.75 / 4.25, .5 / 4.25, .5 / 4.75, 1.75 / 4.75, 2.5 / 4.75};
  const std::vector<double> found = column(result, "expert_usage", "importance");
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-15);
}

TEST(ExpertUsage, NotebookCountsPadding) {
  const Result result = result_of(make_expert_usage, hand_arrays(), notebook_options(), {.padding = true});
  EXPECT_EQ(column(result, "expert_usage", "usage")[2], 4.0 / 12);
  EXPECT_NEAR(column(result, "expert_usage", "importance")[2], 2.5 / 6.25, 1e-15);
}

TEST(ExpertUsage, SumsToOneAndMergesExactly) {
  const TestArrays arrays = random_arrays(5, 2, 8, 11, 6, 3);
  const Result result = result_of(make_expert_usage, arrays);
  for (const char* name : {"usage", "importance"}) {
    const std::vector<double> values = column(result, "expert_usage", name);
    for (int64_t l = 0; l < 2; ++l) {
      EXPECT_NEAR(std::accumulate(values.begin() + l * 6, values.begin() + (l + 1) * 6, 0.0), 1, 1e-12);
    }
  }
  expect_exact_merge(make_expert_usage, arrays);
  expect_padding_is_not_data(make_expert_usage, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
