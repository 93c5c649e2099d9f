#include "analysis/studies/alignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Reals = std::vector<double>;
using Names = std::vector<std::string>;

PairShape pair_of(const RoutingTokens& a, const RoutingTokens& b, const std::string& scoring = "softmax") {
  return {a.shape(scoring), b.shape(scoring), "a", "b"};
}

Result result_of(const RoutingTokens& a, const RoutingTokens& b, const std::string& scoring = "softmax") {
  const auto study = make_alignment(pair_of(a, b, scoring), {});
  study->observe(PairBatch{a.all(), b.all()});
  return study->finalize();
}

TEST(Alignment, ComparesSetsAndWeights) {
  const RoutingTokens a =
      one_layer(4, {{0, 1}, {0, 1}, {0, 1}, {2, 3}}, {{0.6, 0.4}, {0.6, 0.4}, {0.6, 0.4}, {0.5, 0.5}});
  // The same set in another order; one other expert; weight 0 is none; equal weights: the lower id is first.
  const RoutingTokens b = one_layer(4, {{1, 0}, {0, 2}, {0, 1}, {3, 2}}, {{0.4, 0.6}, {0.5, 0.5}, {1, 0}, {0.5, 0.5}});
  const Result result = result_of(a, b);
  const Table& table = result.tables.at(0);
  EXPECT_EQ(table.name(), "alignment");
  EXPECT_EQ(column_names(table), (Names{"component", "layer", "tokens", "unmatched_a", "unmatched_b", "same_set",
                                        "same_first", "overlap", "weight_l1", "kl", "margin_same", "margin_changed"}));
  EXPECT_EQ(integers(table, "tokens")[0], 4);
  EXPECT_EQ(integers(table, "unmatched_a")[0], 0);
  EXPECT_EQ(reals(table, "same_set")[0], 0.5);
  EXPECT_EQ(reals(table, "same_first")[0], 1);
  EXPECT_EQ(reals(table, "overlap")[0], (1 + 0.5 + 0.5 + 1) / 4);
  EXPECT_NEAR(reals(table, "weight_l1")[0], (0 + (0.1 + 0.4 + 0.5) + (0.4 + 0.4) + 0) / 4, 1e-15);
  for (const char* column : {"kl", "margin_same", "margin_changed"}) EXPECT_TRUE(std::isnan(reals(table, column)[0]));
  EXPECT_NE(result.sentence.find("50 %"), std::string::npos) << result.sentence;
}

TEST(Alignment, CountsRowsWithoutAPartner) {
  RoutingTokens a = one_layer(2, {{0}, {0}, {0}}), b = a;
  a.layers[0].seen = {1, 1, 0};
  b.layers[0].seen = {1, 0, 1};
  const Table table = result_of(a, b).tables.at(0);
  EXPECT_EQ(integers(table, "tokens")[0], 1);
  EXPECT_EQ(integers(table, "unmatched_a")[0], 1);
  EXPECT_EQ(integers(table, "unmatched_b")[0], 1);
  EXPECT_TRUE(std::isnan(reals(table, "weight_l1")[0]));  // no weights
}

TEST(Alignment, TokensWithoutExpertsAgree) {
  const RoutingTokens a = one_layer(2, {{-1}, {-1}}), b = one_layer(2, {{-1}, {1}});
  const Table table = result_of(a, b).tables.at(0);
  EXPECT_EQ(reals(table, "same_set")[0], 0.5);
  EXPECT_EQ(reals(table, "same_first")[0], 0.5);
  EXPECT_EQ(reals(table, "overlap")[0], 0.5);
}

TEST(Alignment, KlIsOfTheSoftmaxes) {
  RoutingTokens a = one_layer(2, {{0}}), b = a;
  a.layers[0].logits = {std::log(3), 0};  // 3/4, 1/4
  b.layers[0].logits = {1, 1};            // 1/2, 1/2
  EXPECT_NEAR(reals(result_of(a, b).tables.at(0), "kl")[0], 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-15);
  b.layers[0].logits = {1, -HUGE_VAL};  // rules out what A does not
  const Result infinite = result_of(a, b);
  EXPECT_TRUE(std::isnan(reals(infinite.tables.at(0), "kl")[0]));
  EXPECT_EQ(infinite.notices.size(), 1U);
}

TEST(Alignment, MarginsAreOfScoresThatRankTheChoice) {
  RoutingTokens a = one_layer(3, {{0}, {0}, {0}}), b = one_layer(3, {{0}, {1}, {0}});
  a.layers[0].scores = {0.7, 0.2, 0.1, 0.4, 0.35, 0.25, 0.5, 0.25, 0.25};
  const Table table = result_of(a, b).tables.at(0);
  EXPECT_DOUBLE_EQ(reals(table, "margin_same")[0], (0.5 + 0.25) / 2);  // an even number: the middle two
  EXPECT_DOUBLE_EQ(reals(table, "margin_changed")[0], 0.4 - 0.35);
  EXPECT_TRUE(std::isnan(reals(result_of(a, b, "sigmoid_bias").tables.at(0), "margin_same")[0]));
  a.layers[0].scores[0] = 0.15;  // A took 0, which is not the best
  EXPECT_TRUE(std::isnan(reals(result_of(a, b).tables.at(0), "margin_same")[0]));
}

TEST(Alignment, DescribesSamples) {
  RoutingTokens a, b;
  for (RoutingTokens* tokens : {&a, &b}) {
    for (const int64_t sample : {4, 4, 4, 9, -1}) tokens->add_token(sample);
    tokens->position = {0, 2, 3, 0, 0};
    tokens->layers = {{2, 1, {0, 0, 0, 0, 0}, {}, {}, {}, {}}, {2, 1, {0, 0, 0, 0, 0}, {}, {}, {}, {}}};
  }
  b.layers[0].ids = {0, 1, 1, 0, 1};
  b.layers[1].ids = {0, 1, 0, 0, 1};
  const Table table = result_of(a, b).tables.at(1);
  EXPECT_EQ(table.name(), "alignment_samples");
  EXPECT_EQ(column_names(table),
            (Names{"component", "sample", "tokens", "changed_layers_mean", "first_changed_position"}));
  EXPECT_EQ(integers(table, "sample"), (std::vector<int64_t>{4, 9}));
  EXPECT_EQ(integers(table, "tokens"), (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(reals(table, "changed_layers_mean"), (Reals{1, 0}));
  EXPECT_EQ(integers(table, "first_changed_position"), (std::vector<int64_t>{2, kNoInteger}));
}

TEST(Alignment, IsTheSameForAnySplit) {
  std::mt19937 random(9);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const RoutingTokens a = random_tokens(random);
    RoutingTokens b = a;
    for (RoutingLayer& layer : b.layers) {
      for (size_t i = 0; i < layer.ids.size(); i += 5) layer.ids[i] = static_cast<int32_t>(random() % 6);
      std::shuffle(layer.seen.begin(), layer.seen.end(), random);
    }
    expect_same_for_any_split([&] { return make_alignment(pair_of(a, b), {}); }, a, b, random);
    const Table same = result_of(a, a).tables.at(0);  // a run agrees with itself
    EXPECT_EQ(reals(same, "same_set"), (Reals{1, 1, 1}));
    EXPECT_EQ(reals(same, "overlap"), (Reals{1, 1, 1}));
    EXPECT_EQ(reals(same, "weight_l1"), (Reals{0, 0, 0}));
    EXPECT_EQ(reals(same, "kl"), (Reals{0, 0, 0}));
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
