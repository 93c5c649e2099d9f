#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

/// Two layers, two samples of three places of which the last one of the second is padding; E = 3, K = 2.
TestArrays hand_arrays() {
  TestArrays arrays(2, 2, 3, 3, 2);
  arrays.type(1, 2) = -1;
  arrays.ids = {0, 1, 0, 2, 0, 1, /**/ 1, 2, 0, 1, 2, 2,  // layer 0; the last two: padding
                2, 1, 2, 1, 2, 0, /**/ 2, 1, 0, 1, 0, 0};
  arrays.gates = {.5, .25, .75, .25, .5, .5, /**/ .5, .25, .25, .5, 1, 1,
                  .5, .5,  .5,  .25, 1,  0,  /**/ .5, .5,  .5,  .5, 1, 1};
  return arrays;
}

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
