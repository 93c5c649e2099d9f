#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(ExpertEvolutionStats, ColumnsOfLayersCountFromZero) {
  const Result result = result_of(make_expert_evolution_stats, hand_arrays());
  EXPECT_EQ(header(result, "expert_evolution_stats"),
            "expert_id,stability,layer_0_importance,layer_0_usage,layer_1_importance,layer_1_usage");
  EXPECT_EQ(column(result, "expert_evolution_stats", "expert_id"), (std::vector<double>{0, 1, 2}));
  EXPECT_EQ(column(result, "expert_evolution_stats", "layer_0_usage"), (std::vector<double>{.4, .4, .2}));
  EXPECT_NEAR(column(result, "expert_evolution_stats", "layer_1_importance")[2], 2.5 / 4.75, 1e-15);
  EXPECT_NE(result.sentence.find("expert 2 has the widest range of importance"), std::string::npos) << result.sentence;
}

TEST(ExpertEvolutionStats, MergesExactly) {
  const TestArrays arrays = random_arrays(6, 3, 8, 11, 6, 3);
  expect_exact_merge(make_expert_evolution_stats, arrays);
  expect_padding_is_not_data(make_expert_evolution_stats, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
