#include <gtest/gtest.h>

#include <cmath>

#include "analysis/studies/layer_changes.h"
#include "analysis/studies/usage_study.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(LayerChanges, SumOfAbsoluteDifferences) {
  const Result result = result_of(make_layer_changes, hand_arrays());
  EXPECT_EQ(header(result, "layer_changes"), "from_layer,to_layer,change_usage,change_importance");
  EXPECT_NEAR(column(result, "layer_changes", "change_usage")[0], .4, 1e-15);
  const double expected = (2 / 4.25 - .5 / 4.75) + (1.75 / 4.25 - 1.75 / 4.75) + (2.5 / 4.75 - .5 / 4.25);
  EXPECT_NEAR(column(result, "layer_changes", "change_importance")[0], expected, 1e-14);
  EXPECT_FALSE(result.notices.empty());
}

TEST(LayerChanges, OneLayerAndDifferentExperts) {
  EXPECT_TRUE(
      column(result_of(make_layer_changes, random_arrays(1, 1, 2, 4, 3, 1)), "layer_changes", "to_layer").empty());
  EXPECT_TRUE(std::isnan(share_change({1}, {.5, .5})));
  ComponentShape shape = random_arrays(1, 2, 2, 4, 3, 1).shape();
  shape.layers[1].num_experts = 2;
  const std::string sentence = make_layer_changes(shape, {})->finalize().sentence;
  EXPECT_EQ(sentence, "no change is defined: layers that follow each other have different numbers of experts");
}

TEST(LayerChanges, MergesExactly) {
  const TestArrays arrays = random_arrays(6, 3, 8, 11, 6, 3);
  expect_exact_merge(make_layer_changes, arrays);
  expect_padding_is_not_data(make_layer_changes, arrays);
}

}  // namespace
}  // namespace moetap::analysis::studies
