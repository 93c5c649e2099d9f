#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(EvolutionReport, BestStablestAndLargestStep) {
  const Result result = result_of(make_evolution_report, hand_arrays());
  EXPECT_EQ(header(result, "evolution_report"), "layer,rank,expert_id,importance,top3_sum");
  EXPECT_EQ(column(result, "evolution_report", "expert_id"), (std::vector<double>{0, 1, 2, 2, 1, 0}));
  EXPECT_NEAR(column(result, "evolution_report", "top3_sum")[0], 1, 1e-15);
  EXPECT_EQ(column(result, "evolution_report_stable", "expert_id")[0], 1);
  EXPECT_EQ(column(result, "evolution_report_change", "to_layer"), (std::vector<double>{2}));
  EXPECT_NE(result.sentence.find("from layer 1 to layer 2"), std::string::npos) << result.sentence;
}

TEST(EvolutionReport, OneLayerHasNoStep) {
  const TestArrays arrays = random_arrays(6, 1, 4, 5, 6, 3);
  EXPECT_TRUE(column(result_of(make_evolution_report, arrays), "evolution_report_change", "to_layer").empty());
  expect_exact_merge(make_evolution_report, arrays);
  expect_padding_is_not_data(make_evolution_report, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
