#include "analysis/studies/matching.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Ids = std::vector<int64_t>;

PairShape pair_of(const RoutingTokens& a, const RoutingTokens& b) {
  return {a.shape(), b.shape(), "a", "b"};
}

Result result_of(const RoutingTokens& a, const RoutingTokens& b) {
  const auto study = make_matching(pair_of(a, b), {});
  study->observe(PairBatch{a.all(), b.all()});
  return study->finalize();
}

TEST(Matching, FindsAPermutationByUsage) {
  const RoutingTokens a = one_layer(3, {{0}, {0}, {1}, {2}, {2}}), b = one_layer(3, {{2}, {2}, {0}, {1}, {2}});
  const Result result = result_of(a, b);
  const Table& table = result.tables.at(0);
  EXPECT_EQ(column_names(table), (std::vector<std::string>{"component", "layer", "expert_a", "expert_b", "similarity",
                                                           "identity_similarity"}));
  EXPECT_EQ(integers(table, "expert_a"), (Ids{0, 1, 2}));
  EXPECT_EQ(integers(table, "expert_b"), (Ids{2, 0, 1}));
  EXPECT_DOUBLE_EQ(reals(table, "similarity")[0], 2 / std::sqrt(2.0 * 3));
  EXPECT_DOUBLE_EQ(reals(table, "similarity")[1], 1);
  EXPECT_DOUBLE_EQ(reals(table, "similarity")[2], 1 / std::sqrt(2.0 * 1));
  EXPECT_DOUBLE_EQ(reals(table, "identity_similarity")[0], 0);
  EXPECT_DOUBLE_EQ(reals(table, "identity_similarity")[2], 1 / std::sqrt(2.0 * 3));
  EXPECT_NE(result.sentence.find("3 of 3 experts"), std::string::npos) << result.sentence;
}

TEST(Matching, OnlyTokensOfBothRunsCount) {
  RoutingTokens a = one_layer(2, {{0}, {1}, {1}}), b = one_layer(2, {{0}, {1}, {0}});
  b.layers[0].seen = {1, 1, 0};
  const Table table = result_of(a, b).tables.at(0);
  EXPECT_EQ(integers(table, "expert_b"), (Ids{0, 1}));
  EXPECT_EQ(reals(table, "similarity"), (std::vector<double>{1, 1}));
}

TEST(Matching, WithoutAProfileCellsAreEmpty) {
  const RoutingTokens a = one_layer(2, {{0}}), b = one_layer(1, {{0}});
  const Table table = result_of(a, b).tables.at(0);
  EXPECT_EQ(integers(table, "expert_b"), (Ids{0, kNoInteger}));
  EXPECT_EQ(reals(table, "similarity")[0], 1);
  EXPECT_TRUE(std::isnan(reals(table, "similarity")[1]));
  EXPECT_TRUE(std::isnan(reals(table, "identity_similarity")[1]));
}

TEST(Matching, PrefersRouterRows) {
  const RoutingTokens a = one_layer(2, {{0}, {1}}), b = a;
  const auto study = make_matching(pair_of(a, b), {});
  study->observe(PairBatch{a.all(), b.all()});
  const std::vector<float> router_a = {1, 0, 0, 2}, router_b = {0, 1, 3, 0};
  WeightMatrix weight;
  weight.rows = weight.columns = 2;
  weight.values = router_a;
  study->observe(weight);
  weight.model = 1;
  weight.values = router_b;
  study->observe(weight);
  const Table table = study->finalize().tables.at(0);
  EXPECT_EQ(integers(table, "expert_b"), (Ids{1, 0}));
  EXPECT_EQ(reals(table, "similarity"), (std::vector<double>{1, 1}));
  EXPECT_EQ(reals(table, "identity_similarity"), (std::vector<double>{0, 0}));
}

TEST(Matching, FindsAShuffleAndIsTheSameForAnySplit) {
  std::mt19937 random(10);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const RoutingTokens a = random_tokens(random);
    RoutingTokens b = a;
    std::vector<int32_t> renamed = {0, 1, 2, 3, 4, 5};
    std::shuffle(renamed.begin(), renamed.end(), random);
    for (RoutingLayer& layer : b.layers) {
      for (int32_t& id : layer.ids) id = id < 0 ? id : renamed[static_cast<size_t>(id)];
    }
    const Table table = result_of(a, b).tables.at(0);
    for (size_t row = 0; row < table.num_rows(); ++row) {
      EXPECT_EQ(integers(table, "expert_b")[row], renamed[row % 6]);
      EXPECT_DOUBLE_EQ(reals(table, "similarity")[row], 1);
    }
    expect_same_for_any_split([&] { return make_matching(pair_of(a, b), {}); }, a, b, random);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
