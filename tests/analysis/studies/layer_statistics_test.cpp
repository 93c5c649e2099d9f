#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(LayerStatistics, CountsValidTokens) {
  const Result result = result_of(make_layer_statistics, hand_arrays(), {}, {.padding = true});
  EXPECT_EQ(header(result, "layer_statistics"),
            "layer,active_experts,entropy,entropy_ratio,max_expert,max_expert_ratio");
  // Layer 1: 0 four times, 1 four times, 2 twice; layer 2: 2 four times, 1 four times, 0 twice.
  EXPECT_EQ(column(result, "layer_statistics", "layer"), (std::vector<double>{1, 2}));
  EXPECT_EQ(column(result, "layer_statistics", "active_experts"), (std::vector<double>{3, 3}));
  const double entropy = -2 * .4 * std::log2(.4) - .2 * std::log2(.2);
  EXPECT_NEAR(column(result, "layer_statistics", "entropy")[0], entropy, 1e-12);
  EXPECT_NEAR(column(result, "layer_statistics", "entropy_ratio")[1], entropy / std::log2(3), 1e-12);
  EXPECT_EQ(column(result, "layer_statistics", "max_expert"), (std::vector<double>{0, 1}));
  EXPECT_EQ(column(result, "layer_statistics", "max_expert_ratio"), (std::vector<double>{.4, .4}));
  EXPECT_NE(result.sentence.find("layer 1 sends 40 % of its selections to expert 0"), std::string::npos)
      << result.sentence;
}

TEST(LayerStatistics, NotebookCountsPadding) {
  const Result result = result_of(make_layer_statistics, hand_arrays(), notebook_options(), {.padding = true});
  // Layer 1: 4, 4, 4 of 12; layer 2: 4, 4, 4.
  EXPECT_NEAR(column(result, "layer_statistics", "entropy")[0], std::log2(3), 1e-8);
  EXPECT_NEAR(column(result, "layer_statistics", "max_expert_ratio")[0], 1.0 / 3, 1e-15);
}

TEST(LayerStatistics, OneExpertAndNoToken) {
  const Result one = result_of(make_layer_statistics, TestArrays(1, 1, 2, 1, 1));
  EXPECT_EQ(column(one, "layer_statistics", "entropy_ratio")[0], 0);
  TestArrays none(1, 1, 1, 2, 1);
  none.type(0, 0) = -1;
  const Result empty = result_of(make_layer_statistics, none);
  EXPECT_EQ(column(empty, "layer_statistics", "entropy")[0], 0);
  EXPECT_TRUE(std::isnan(column(empty, "layer_statistics", "max_expert_ratio")[0]));
  EXPECT_EQ(empty.sentence, "no expert was selected");
}

TEST(LayerStatistics, MergesExactlyAndIgnoresPadding) {
  const TestArrays arrays = random_arrays(1, 3, 9, 12, 5, 3);
  expect_exact_merge(make_layer_statistics, arrays);
  expect_exact_merge(make_layer_statistics, arrays, notebook_options(), {.padding = true});
  expect_padding_is_not_data(make_layer_statistics, arrays);
}

TEST(LayerStatistics, CountsOnceABatchWithAScratch) {
  const TestArrays arrays = random_arrays(2, 2, 5, 9, 4, 2);
  expect_equal(result_of(make_layer_statistics, arrays),
               result_of(make_layer_statistics, arrays, {}, {.scratch = true}));
  expect_equal(result_of(make_expert_usage, arrays), result_of(make_expert_usage, arrays, {}, {.scratch = true}));
  const Feed padded{.padding = true}, shared{.padding = true, .scratch = true};
  expect_equal(result_of(make_expert_usage, arrays, notebook_options(), padded),
               result_of(make_expert_usage, arrays, notebook_options(), shared));
}

}  // namespace
}  // namespace moetap::analysis::studies
