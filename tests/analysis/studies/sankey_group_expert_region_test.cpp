#include <gtest/gtest.h>

#include "analysis/studies/sample_queries.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(SankeyGroupExpertRegion, InflowIsOutflow) {
  const TestArrays arrays = random_arrays(54, 4, 2, 33, 5, 2, 20);
  const Result result = result_of(make_sankey_group_expert_region, arrays);
  const auto source = texts(result, "sankey_group_expert_region", "source"),
             target = texts(result, "sankey_group_expert_region", "target");
  const auto value = column(result, "sankey_group_expert_region", "value");
  StudyOptions all;
  all.threshold = 0;
  const Result every = result_of(make_sankey_group_expert_region, arrays, all);
  const auto every_source = texts(every, "sankey_group_expert_region", "source"),
             every_target = texts(every, "sankey_group_expert_region", "target");
  const auto every_value = column(every, "sankey_group_expert_region", "value");
  double in = 0, out = 0;
  for (size_t i = 0; i < every_value.size(); ++i) {
    in += every_target[i] == "Expert 1" ? every_value[i] : 0;
    out += every_source[i] == "Expert 1" ? every_value[i] : 0;
  }
  EXPECT_GT(in, 0);
  EXPECT_NEAR(in, out, 1e-12);
  EXPECT_LE(value.size(), every_value.size());
}

TEST(SankeyGroupExpertRegion, GroupsAndRegions) {
  const Result result = result_of(make_sankey_group_expert_region, sample_arrays(9));
  const auto source = texts(result, "sankey_group_expert_region", "source"),
             target = texts(result, "sankey_group_expert_region", "target");
  EXPECT_EQ(source[0], "Pos 1-1");
  EXPECT_EQ(target[0], "Expert 0");
  const auto value = column(result, "sankey_group_expert_region", "value");
  EXPECT_NEAR(value[0], .5, 1e-15);
  size_t first = 0;
  while (column(result, "sankey_group_expert_region", "stage")[first] == 1) ++first;
  EXPECT_EQ(source[first - 1], "Expert 0" == source[first - 1] ? "" : "Pos 8-9");
  EXPECT_EQ(target[first], "Region 1 (1-2)");
  EXPECT_NEAR(value[first], 4.5 * (.5 + .0625), 1e-6);
}

TEST(SankeyGroupExpertRegion, NotebookScalesAndDrops) {
  const Result result = result_of(make_sankey_group_expert_region, sample_arrays(9), notebook_options());
  const auto source = texts(result, "sankey_group_expert_region", "source");
  const auto value = column(result, "sankey_group_expert_region", "value"),
             stage = column(result, "sankey_group_expert_region", "stage");
  EXPECT_EQ(value[0], 7.5);
  size_t first = 0;
  while (stage[first] == 1) ++first;
  EXPECT_EQ(source[first - 3], "Pos 8-8");  // its label ends there, though the ninth position is in it
  EXPECT_EQ(value[first - 3], 15 * 1.0);
  EXPECT_NEAR(value[first], 20 * .5625 / (.5 + 7 * .0625), 1e-5);
  const Result tiny = result_of(make_sankey_group_expert_region, sample_arrays(7), notebook_options());
  EXPECT_TRUE(column(tiny, "sankey_group_expert_region", "stage").empty());
}

TEST(SankeyGroupExpertRegion, MergesExactly) {
  const TestArrays arrays = random_arrays(55, 4, 5, 24, 4, 2, 6);
  expect_exact_merge(make_sankey_group_expert_region, arrays);
  expect_exact_merge(make_sankey_group_expert_region, arrays, notebook_options());
  expect_padding_is_not_data(make_sankey_group_expert_region, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
