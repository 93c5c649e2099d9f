#include "analysis/studies/placement.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Reals = std::vector<double>;
using Names = std::vector<std::string>;

/// `copies` of each of these tokens, in one forward each.
RoutingTokens forwards_of(int64_t num_experts, const std::vector<std::vector<int32_t>>& ids, int copies) {
  std::vector<std::vector<int32_t>> all;
  for (const auto& of_token : ids) all.insert(all.end(), static_cast<size_t>(copies), of_token);
  RoutingTokens tokens = one_layer(num_experts, all);
  for (size_t t = 0; t < all.size(); ++t) tokens.forward[t] = static_cast<int64_t>(t) / copies;
  return tokens;
}

Table table_of(const RoutingTokens& tokens, const StudyOptions& options = {}) {
  return analyse(*make_placement(tokens.shape(), options), tokens).tables.at(0);
}

TEST(Placement, BalancesByTheRunsCounts) {
  EXPECT_EQ(contiguous_placement(6, 2), (std::vector<int32_t>{0, 0, 0, 1, 1, 1}));
  // 9 to GPU 0, 8 to 1, 2 to 1 (8 < 9), then only GPU 0 has room.
  const std::vector<int64_t> counts = {9, 8, 2, 1};
  EXPECT_EQ(balanced_placement(counts, 2), (std::vector<int32_t>{0, 1, 1, 0}));
  const std::vector<int64_t> equal = {5, 5, 5, 5};
  EXPECT_EQ(balanced_placement(equal, 2), (std::vector<int32_t>{0, 1, 0, 1}));
}

TEST(Placement, MeasuresGpusOfTheRunAndOfForwards) {
  // Four experts; 256 tokens take 0 and 1, 256 take 0 and 2: c = 512, 256, 256, 0.
  const Table table = table_of(forwards_of(4, {{0, 1}, {0, 2}}, 256));
  EXPECT_EQ(column_names(table), (Names{"component", "layer", "gpus", "placement", "imbalance_run", "imbalance_p50",
                                        "imbalance_p95", "imbalance_max", "fanout"}));
  EXPECT_EQ(integers(table, "gpus"), (std::vector<int64_t>{2, 2, 4, 4}));
  EXPECT_EQ(texts(table, "placement"), (Names{"balanced", "contiguous", "balanced", "contiguous"}));
  // Balanced over two: 0 and 3 on one, 1 and 2 on the other. Contiguous: 0, 1 | 2, 3.
  EXPECT_EQ(reals(table, "imbalance_run"), (Reals{1, 1.5, 2, 2}));
  EXPECT_EQ(reals(table, "imbalance_p50"), (Reals{1, 1.5, 2, 2}));
  EXPECT_DOUBLE_EQ(reals(table, "imbalance_p95")[1], 1.95);
  EXPECT_EQ(reals(table, "imbalance_max"), (Reals{1, 2, 2, 2}));
  EXPECT_EQ(reals(table, "fanout"), (Reals{2, 1.5, 2, 2}));
}

TEST(Placement, LeavesOutSmallForwards) {
  const Table table = table_of(forwards_of(2, {{0}, {1}}, 255));
  EXPECT_EQ(reals(table, "imbalance_run"), (Reals{1, 1}));
  EXPECT_TRUE(std::isnan(reals(table, "imbalance_p50")[0]));
  EXPECT_EQ(table_of(forwards_of(3, {{0}}, 300)).num_rows(), 0U);  // no 2, 4, 8, ... divides 3
}

TEST(Placement, TakesAFile) {
  const RoutingTokens tokens = forwards_of(3, {{0, 1}, {2, 1}}, 300);
  StudyOptions options;
  options.placement["0"] = {0, 0, 1};
  const Table table = table_of(tokens, options);
  EXPECT_EQ(texts(table, "placement"), Names{"file"});
  EXPECT_EQ(integers(table, "gpus"), std::vector<int64_t>{2});
  EXPECT_DOUBLE_EQ(reals(table, "imbalance_run")[0], 1.5);
  EXPECT_DOUBLE_EQ(reals(table, "fanout")[0], 1.5);
  EXPECT_EQ(make_placement(tokens.shape(), options)->num_passes(), 1);
  options.placement["0"] = {0, 0};
  EXPECT_THROW(make_placement(tokens.shape(), options), std::runtime_error);
  options.placement["0"] = {0, 0, -1};
  EXPECT_THROW(make_placement(tokens.shape(), options), std::runtime_error);
  options.placement = {{"7", {0, 0, 1}}};
  EXPECT_THROW(make_placement(tokens.shape(), options), std::runtime_error);
}

TEST(Placement, IsTheSameForAnySplit) {
  std::mt19937 random(3);
  RandomTokens with;
  with.num_experts = 8;
  with.max_tokens = 700;  // prompts of 256 tokens and more
  with.num_samples = 8;
  const RoutingTokens tokens = random_tokens(random, with, true);
  expect_same_for_any_split([&] { return make_placement(tokens.shape(), {}); }, tokens, Order::kForwards, random);
  StudyOptions options;
  for (const char* layer : {"0", "1", "2"}) options.placement[layer] = {0, 1, 2, 0, 1, 2, 0, 1};
  expect_same_for_any_split([&] { return make_placement(tokens.shape(), options); }, tokens, Order::kForwards, random);
  const Table table = table_of(tokens);
  for (size_t row = 0; row < table.num_rows(); ++row) {
    EXPECT_GE(reals(table, "imbalance_run")[row], 1);
    EXPECT_LE(reals(table, "fanout")[row], 3);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
