#include "analysis/studies/predictability.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

/// Two layers of K = 1; a token a sample: ids of layer 0 and 1, and the token id.
struct Step {
  int64_t sample = 0;
  int32_t from = 0, to = 0, token_id = -1;
};

RoutingTokens two_layers(int64_t num_experts, const std::vector<Step>& steps) {
  RoutingTokens tokens;
  tokens.layers.resize(2);
  for (RoutingLayer& layer : tokens.layers) {
    layer.num_experts = num_experts;
    layer.top_k = 1;
  }
  for (const Step& step : steps) {
    tokens.add_token(step.sample, 0, 0, step.token_id);
    tokens.layers[0].ids.push_back(step.from);
    tokens.layers[1].ids.push_back(step.to);
  }
  return tokens;
}

Table table_of(const RoutingTokens& tokens) {
  return analyse(*make_predictability(tokens.shape(), {}), tokens).tables.at(0);
}

TEST(Predictability, LearnsFromEvenSamplesAndScoresOddOnes) {
  // Even: 0 -> 1 twice, 2 -> 2 three times; token 7 goes to 1. Odd: 0 -> 1, 2 -> 2, 0 -> 2.
  const Table table = table_of(two_layers(3, {{0, 0, 1, 7},
                                              {0, 0, 1, 7},
                                              {2, 2, 2, 8},
                                              {2, 2, 2, 8},
                                              {2, 2, 2, 8},
                                              {3, 0, 1, 7},
                                              {3, 2, 2, 7},
                                              {5, 0, 2, -1}}));
  EXPECT_EQ(column_names(table), (std::vector<std::string>{"component", "from_layer", "to_layer", "tokens",
                                                           "recall_popular", "recall_ids", "recall_token"}));
  EXPECT_EQ(texts(table, "from_layer"), std::vector<std::string>{"0"});
  EXPECT_EQ(texts(table, "to_layer"), std::vector<std::string>{"1"});
  EXPECT_EQ(integers(table, "tokens"), std::vector<int64_t>{3});
  EXPECT_DOUBLE_EQ(reals(table, "recall_popular")[0], 2.0 / 3);  // names 2
  EXPECT_DOUBLE_EQ(reals(table, "recall_ids")[0], 2.0 / 3);      // names 1, 2, 1
  EXPECT_DOUBLE_EQ(reals(table, "recall_token")[0], 0.5);        // names 1, 1; the third id is unknown
}

TEST(Predictability, TiesGoToTheLowerId) {
  // Popular: 0 and 1 alike -> 0. After 0 come 1 and 0 alike -> 0. Token 9 was never seen -> 0.
  const Table table = table_of(two_layers(3, {{0, 0, 1, 7}, {0, 0, 0, 7}, {1, 0, 0, 9}}));
  EXPECT_EQ(reals(table, "recall_popular")[0], 1);
  EXPECT_EQ(reals(table, "recall_ids")[0], 1);
  EXPECT_EQ(reals(table, "recall_token")[0], 1);
}

TEST(Predictability, SharesAreOfTheExpertsUsed) {
  // K = 2, and the scored token used three slots' worth of one and two experts.
  RoutingTokens tokens = two_layers(4, {{0, 0, 0}, {1, 0, 0}, {1, 0, 0}});
  tokens.layers[1].top_k = 2;
  tokens.layers[1].ids = {0, 1, 0, 3, 1, -1};
  const Table table = table_of(tokens);
  EXPECT_EQ(reals(table, "recall_ids")[0], 0.75);  // one of two, and one of one
  EXPECT_TRUE(std::isnan(reals(table, "recall_token")[0]));
}

TEST(Predictability, IsEmptyWithoutTwoSamplesOrAnEvenOne) {
  for (const RoutingTokens& tokens : {two_layers(2, {{1, 0, 1}}), two_layers(2, {{1, 0, 1}, {3, 0, 1}}),
                                      two_layers(2, {{-1, 0, 1}, {-1, 0, 1}}), two_layers(2, {})}) {
    const Table table = table_of(tokens);
    EXPECT_TRUE(std::isnan(reals(table, "recall_popular")[0]));
    EXPECT_EQ(integers(table, "tokens")[0], kNoInteger);
  }
  EXPECT_EQ(table_of(one_layer(2, {{0}})).num_rows(), 0U);
}

TEST(Predictability, IsTheSameForAnySplit) {
  std::mt19937 random(4);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const RoutingTokens tokens = random_tokens(random);
    expect_same_for_any_split([&] { return make_predictability(tokens.shape(), {}); }, tokens, Order::kSamples, random);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
