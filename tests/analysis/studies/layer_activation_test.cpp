#include "analysis/studies/layer_activation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Reals = std::vector<double>;
using Names = std::vector<std::string>;

/// Layers of one expert a slot, each with these scores for its tokens.
RoutingTokens scored(const std::vector<std::vector<Reals>>& layers) {
  RoutingTokens tokens;
  for (size_t t = 0; t < layers[0].size(); ++t) tokens.add_token(0);
  for (const std::vector<Reals>& rows : layers) {
    RoutingLayer layer;
    layer.num_experts = static_cast<int64_t>(rows[0].size());
    layer.top_k = 1;
    for (const Reals& row : rows) {
      layer.ids.push_back(0);
      layer.scores.insert(layer.scores.end(), row.begin(), row.end());
    }
    tokens.layers.push_back(layer);
  }
  return tokens;
}

TEST(LayerActivation, GivesMeansVariancesAndCorrelations) {
  const RoutingTokens tokens = scored({{{0.5, 0.25, 0.25}, {0.75, 0.25, 0}},
                                       {{0.6, 0.2, 0.2}, {0.8, 0.2, 0}},
                                       {{0, 0.5, 0.5}, {0, 0.5, 0.5}},
                                       {{0.25, 0.25, 0.25}, {0.25, 0.25, 0.25}}});
  StudyOptions options;
  options.delta_max = 2;
  options.periods = {1, 3, 9};
  const Result result = analyse(*make_layer_activation(tokens.shape(), options), tokens);
  const Table &activation = result.tables.at(0), &correlation = result.tables.at(1), &period = result.tables.at(2);
  EXPECT_EQ(column_names(activation),
            (Names{"component", "layer", "tokens", "expert_id", "avg_activation", "var_activation", "selected_count"}));
  EXPECT_DOUBLE_EQ(reals(activation, "avg_activation")[0], 0.625);
  EXPECT_DOUBLE_EQ(reals(activation, "var_activation")[0], 2 * 0.125 * 0.125);
  EXPECT_DOUBLE_EQ(reals(activation, "var_activation")[1], 0);
  EXPECT_EQ(integers(activation, "selected_count")[0], 2);
  EXPECT_EQ(column_names(correlation), (Names{"component", "layer_a", "layer_b", "delta", "correlation"}));
  EXPECT_EQ(texts(correlation, "layer_a"), (Names{"0", "0", "1", "1", "2"}));
  EXPECT_EQ(texts(correlation, "layer_b"), (Names{"1", "2", "2", "3", "3"}));
  // Profiles (5, 2, 1) / 8 and (7, 2, 1) / 10: deviations (7, -2, -5) / 24 and (11, -4, -7) / 30.
  const double first = (77 + 8 + 35) / std::sqrt(78.0 * 186.0);
  EXPECT_NEAR(reals(correlation, "correlation")[0], first, 1e-12);
  EXPECT_TRUE(std::isnan(reals(correlation, "correlation")[3]));  // a constant profile
  EXPECT_EQ(column_names(period),
            (Names{"component", "delta", "pairs", "mean_correlation", "std_correlation", "strength"}));
  const double second = reals(correlation, "correlation")[2];
  EXPECT_EQ(integers(period, "pairs"), (std::vector<int64_t>{2, 0, 0}));
  EXPECT_NEAR(reals(period, "mean_correlation")[0], (first + second) / 2, 1e-12);
  EXPECT_NEAR(reals(period, "std_correlation")[0], std::abs(first - second) / 2, 1e-12);
  EXPECT_EQ(texts(period, "strength"), (Names{"weak", "", ""}));
}

TEST(LayerActivation, NamesScoresThatAreNoNumbers) {
  const RoutingTokens tokens = scored({{{0.5, kUndefined}, {0.25, 0.5}}});
  const Result result = analyse(*make_layer_activation(tokens.shape(), {}), tokens);
  EXPECT_DOUBLE_EQ(reals(result.tables[0], "avg_activation")[0], 0.375);
  EXPECT_DOUBLE_EQ(reals(result.tables[0], "avg_activation")[1], 0.5);
  EXPECT_TRUE(std::isnan(reals(result.tables[0], "var_activation")[1]));
  EXPECT_EQ(result.notices.size(), 1U);
}

TEST(LayerActivation, HasEmptyCellsWithoutScores) {
  const RoutingTokens tokens = one_layer(2, {{0}});
  const Result result = analyse(*make_layer_activation(tokens.shape(), {}), tokens);
  EXPECT_TRUE(std::isnan(reals(result.tables[0], "avg_activation")[0]));
  EXPECT_EQ(integers(result.tables[0], "tokens")[0], 0);
}

TEST(LayerActivation, IsTheSameForAnySplit) {
  std::mt19937 random(14);
  for (int repeat = 0; repeat < 3; ++repeat) {
    const RoutingTokens tokens = random_tokens(random);
    expect_same_for_any_split([&] { return make_layer_activation(tokens.shape(), {}); }, tokens, Order::kTokens,
                              random);
  }
}

TEST(LayerActivation, HoldsMoreTokensThanABlock) {
  std::mt19937 random(15);
  RoutingTokens tokens = scored({std::vector<Reals>(9000, {0.5, 0.1})});
  const Result result = analyse(*make_layer_activation(tokens.shape(), {}), tokens);
  EXPECT_EQ(reals(result.tables[0], "avg_activation")[0], 0.5);
  EXPECT_NEAR(reals(result.tables[0], "avg_activation")[1], 0.1, 1e-16);
  EXPECT_NEAR(reals(result.tables[0], "var_activation")[1], 0, 1e-16);
}

}  // namespace
}  // namespace moetap::analysis::studies
