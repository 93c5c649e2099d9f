#include <gtest/gtest.h>

#include <vector>

#include "analysis/studies/sankey_evolution.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(SankeyEvolution, SharesOfTheFlowBetweenLayers) {
  StudyOptions options;
  options.top = 1;  // expert 0 of layer 1 and expert 2 of layer 2
  const Result result = result_of(make_sankey_evolution, hand_arrays(), options);
  EXPECT_EQ(header(result, "sankey_evolution"), "from_layer,to_layer,from_expert,to_expert,value,probability");
  EXPECT_EQ(column(result, "sankey_evolution", "from_expert"), (std::vector<double>{0}));
  EXPECT_EQ(column(result, "sankey_evolution", "to_expert"), (std::vector<double>{2}));
  // Tokens of expert 0: .5 to (.5, .5); .75 to (.5, .25); .5 to (1, 0); .25 to 0 and 1.
  const double into_2 = .5 * .5 + .75 * .5 + .5;
  const double of_0 = .5 + .75 * .75 + .5 + .25;
  const double all = .75 + 1 * .75 + 1 + .75 + .75;
  EXPECT_NEAR(column(result, "sankey_evolution", "value")[0], into_2 / all, 1e-15);
  EXPECT_NEAR(column(result, "sankey_evolution", "probability")[0], into_2 / of_0, 1e-15);
  const Result notebook = result_of(make_sankey_evolution, hand_arrays(),
                                    [&] {
                                      StudyOptions with = notebook_options();
                                      with.top = 1;
                                      return with;
                                    }(),
                                    {.padding = true});
  EXPECT_NEAR(column(notebook, "sankey_evolution", "value")[0], 100 * into_2, 1e-12);
}

TEST(SankeyEvolution, NotebookTakesAResidueForPadding) {
  TestArrays arrays = hand_arrays();
  StudyOptions options = notebook_options();
  options.notebook_padding = 8;
  for (int64_t s = 0; s < 3; ++s) arrays.type(0, s) = 8;  // the first sample is left out, padding counts
  const Result result = result_of(make_sankey_evolution, arrays, options, {.padding = true});
  double total = 0;
  for (const double value : column(result, "sankey_evolution", "value")) total += value;
  EXPECT_NEAR(total, 100 * (.75 + .75 + 4), 1e-10);
}

TEST(SankeyEvolution, SharesAScratch) {
  const TestArrays arrays = random_arrays(71, 2, 40, 9, 4, 2);
  expect_equal(result_of(make_sankey_evolution, arrays),
               result_of(make_sankey_evolution, arrays, {}, {.scratch = true}));
}

TEST(SankeyEvolution, MergesExactly) {
  const TestArrays arrays = random_arrays(9, 3, 9, 12, 9, 3);
  expect_exact_merge(make_sankey_evolution, arrays);
  expect_padding_is_not_data(make_sankey_evolution, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
