#include <gtest/gtest.h>

#include <vector>

#include "analysis/studies/sample_queries.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(SankeyExpertRegion, KeepsWhatFlows) {
  const TestArrays arrays = sample_arrays(6);  // regions of 5: (1-1) (2-2) (3-3) (4-4) (5-6); key 0 has .5, others .1
  const Result result = result_of(make_sankey_expert_region, arrays);
  EXPECT_EQ(column(result, "expert_usage_bar", "expert_id"), (std::vector<double>{0, 1, 2}));
  EXPECT_EQ(column(result, "expert_usage_bar", "usage"), (std::vector<double>{3, .75, .75}));
  const auto target = texts(result, "sankey_expert_region", "target"),
             source = texts(result, "sankey_expert_region", "source");
  const auto value = column(result, "sankey_expert_region", "value");
  EXPECT_EQ(source[0], "Pos 1");
  EXPECT_EQ(value[0], .5);
  double expert_0 = 0;
  for (size_t i = 12; i < value.size(); ++i) expert_0 += source[i] == "Expert 0" ? value[i] : 0;
  EXPECT_NEAR(expert_0, 3, 1e-6);
  EXPECT_EQ(target[12], "Region 1 (1-1)");
  EXPECT_NEAR(value[12], 1.5, 1e-6);
  EXPECT_EQ(target[16], "Region 5 (5-6)");
  EXPECT_NEAR(value[16], .6, 1e-6);
  EXPECT_EQ(result.notices.size(), 2U);  // no sample 42, no layer 4
}

TEST(SankeyExpertRegion, NotebookDropsWhatIsLeftOver) {
  const Result result = result_of(make_sankey_expert_region, sample_arrays(6), notebook_options());
  const auto value = column(result, "sankey_expert_region", "value");
  EXPECT_EQ(value[0], 50);
  EXPECT_NEAR(value[12], 200 * .5 / .9, 1e-5);  // .5 + 4 * .1: the sixth position is in no region
  EXPECT_EQ(texts(result, "sankey_expert_region", "target")[16], "Region 5 (5-5)");
  EXPECT_EQ(column(result_of(make_sankey_expert_region, sample_arrays(4), notebook_options()), "sankey_expert_region",
                   "stage")
                .back(),
            1);
}

TEST(SankeyExpertRegion, Options) {
  StudyOptions options;
  options.top = 1;
  options.threshold = .3;
  options.link_share = .2;
  options.regions = 2;
  const Result result = result_of(make_sankey_expert_region, sample_arrays(6), options);
  EXPECT_EQ(column(result, "sankey_expert_region", "stage").size(), 6U + 2);
  EXPECT_EQ(column(result, "expert_usage_bar", "rank").size(), 1U);
  options.link_share = .4;
  EXPECT_EQ(
      column(result_of(make_sankey_expert_region, sample_arrays(6), options), "sankey_expert_region", "stage").size(),
      6U + 1);
}

TEST(SankeyExpertRegion, MergesExactly) {
  const TestArrays arrays = random_arrays(53, 4, 45, 14, 4, 2, 6);
  expect_exact_merge(make_sankey_expert_region, arrays);
  EXPECT_TRUE(result_of(make_sankey_expert_region, arrays).notices.empty());
  expect_exact_merge(make_sankey_expert_region, arrays, notebook_options());
  expect_padding_is_not_data(make_sankey_expert_region, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
