#include <gtest/gtest.h>

#include "analysis/studies/expert_transitions.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(ExpertTransitions, ProductsOfGates) {
  const Result result = result_of(make_expert_transitions, hand_arrays());
  EXPECT_EQ(header(result, "expert_transitions"), "from_layer,to_layer,from_expert,to_expert,weight,probability");
  // Expert 2 of layer 1: token (0, 1), gate .25 to 2 (.5) and 1 (.25); token (1, 0), gate .25 to 2 and 1 (.5 each).
  const auto from = column(result, "expert_transitions", "from_expert"),
             to = column(result, "expert_transitions", "to_expert");
  const auto weight = column(result, "expert_transitions", "weight");
  const auto probability = column(result, "expert_transitions", "probability");
  ASSERT_GE(from.size(), 2U);
  const size_t last = from.size() - 1;
  EXPECT_EQ(from[last], 2);
  EXPECT_EQ(to[last], 2);
  EXPECT_NEAR(weight[last], .25, 1e-15);
  EXPECT_NEAR(weight[last - 1], .1875, 1e-15);
  EXPECT_NEAR(probability[last], .25 / .4375, 1e-15);
  EXPECT_EQ(to[last - 1], 1);  // weights of 0 have no row
}

TEST(ExpertTransitions, NotebookCountsPadding) {
  const Result result = result_of(make_expert_transitions, hand_arrays(), notebook_options(), {.padding = true});
  const auto from = column(result, "expert_transitions", "from_expert"),
             to = column(result, "expert_transitions", "to_expert");
  const auto weight = column(result, "expert_transitions", "weight");
  // Padding: expert 2 twice (gate 1) to expert 0 twice (gate 1).
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i] == 2 && to[i] == 0) {
      EXPECT_NEAR(weight[i], 4, 1e-15);
    }
  }
  EXPECT_EQ(from.back(), 2);
}

TEST(ExpertTransitions, SharesAScratch) {
  const TestArrays arrays = random_arrays(71, 2, 40, 9, 4, 2);
  expect_equal(result_of(make_expert_transitions, arrays),
               result_of(make_expert_transitions, arrays, {}, {.scratch = true}));
}

TEST(ExpertTransitions, RowsSumToOneAndMergeExactly) {
  const TestArrays arrays = random_arrays(9, 3, 9, 12, 5, 3);
  const Result result = result_of(make_expert_transitions, arrays);
  double first = 0;
  const auto from = column(result, "expert_transitions", "from_expert"),
             layer = column(result, "expert_transitions", "from_layer");
  const auto probability = column(result, "expert_transitions", "probability");
  for (size_t i = 0; i < from.size(); ++i) first += from[i] == 0 && layer[i] == 2 ? probability[i] : 0;
  EXPECT_NEAR(first, 1, 1e-12);
  expect_exact_merge(make_expert_transitions, arrays);
  expect_exact_merge(make_expert_transitions, arrays, notebook_options(), {.padding = true});
  expect_padding_is_not_data(make_expert_transitions, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
