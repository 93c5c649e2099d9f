#include "analysis/studies/imbalance.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Names = std::vector<std::string>;

TEST(Imbalance, ComparesForwardsWithTheRun) {
  // Two experts. Forward 0: 0 0 -> max / mean 2. Forward 1: 0 1 -> 1. Forward 2 has one token, fewer than experts.
  RoutingTokens tokens = one_layer(2, {{0}, {0}, {0}, {1}, {1}});
  tokens.forward = {0, 0, 1, 1, 2};
  const Result result = analyse(*make_imbalance(tokens.shape(), {}), tokens);
  const Table& table = result.tables.at(0);
  EXPECT_EQ(column_names(table), (Names{"component", "layer", "forwards", "run", "p50", "p95", "max"}));
  EXPECT_EQ(texts(table, "component"), Names{"language_model"});
  EXPECT_EQ(texts(table, "layer"), Names{"0"});
  EXPECT_EQ(integers(table, "forwards"), std::vector<int64_t>{2});
  EXPECT_DOUBLE_EQ(reals(table, "run")[0], 3 / 2.5);
  EXPECT_DOUBLE_EQ(reals(table, "p50")[0], 1.5);
  EXPECT_DOUBLE_EQ(reals(table, "p95")[0], 1.95);
  EXPECT_DOUBLE_EQ(reals(table, "max")[0], 2);
  EXPECT_NE(result.sentence.find("1.20"), std::string::npos) << result.sentence;
}

TEST(Imbalance, LeavesOutWhatWasNotUsed) {
  // Weight 0, a slot without an expert, an id beyond the experts (a null expert): none is a use.
  RoutingTokens tokens = one_layer(2, {{0, 1}, {0, -1}, {0, 5}}, {{1, 0}, {1, 1}, {1, 1}});
  const Table table = analyse(*make_imbalance(tokens.shape(), {}), tokens).tables.at(0);
  EXPECT_DOUBLE_EQ(reals(table, "run")[0], 2);
  tokens.layers[0].seen = {0, 0, 0};
  const Table none = analyse(*make_imbalance(tokens.shape(), {}), tokens).tables.at(0);
  EXPECT_EQ(integers(none, "forwards")[0], 0);
  EXPECT_TRUE(std::isnan(reals(none, "run")[0]));
  EXPECT_TRUE(std::isnan(reals(none, "p95")[0]));
}

TEST(Imbalance, IsTheSameForAnySplit) {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const RoutingTokens tokens = random_tokens(random, {}, true);
    expect_same_for_any_split([&] { return make_imbalance(tokens.shape(), {}); }, tokens, Order::kForwards, random);
  }
}

TEST(Imbalance, ForwardsOfTwoRanksAreTwo) {
  RoutingTokens tokens = one_layer(1, {{0}, {0}});
  tokens.source = {0, 1};
  EXPECT_EQ(integers(analyse(*make_imbalance(tokens.shape(), {}), tokens).tables.at(0), "forwards")[0], 2);
}

}  // namespace
}  // namespace moetap::analysis::studies
