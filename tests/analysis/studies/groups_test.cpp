#include "analysis/studies/groups.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/studies/seeded_random.h"
#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Reals = std::vector<double>;
using Names = std::vector<std::string>;

/// A token a sample: its group and expert.
RoutingTokens samples_of(const std::vector<std::pair<int32_t, int32_t>>& groups_and_experts) {
  RoutingTokens tokens;
  RoutingLayer layer;
  layer.num_experts = 2;
  layer.top_k = 1;
  for (const auto& [group, expert] : groups_and_experts) {
    tokens.add_token(tokens.size());
    tokens.group.back() = group;
    layer.ids.push_back(expert);
  }
  tokens.layers.push_back(layer);
  return tokens;
}

TEST(SeededRandom, GivesTheSameNumbersEverywhere) {
  SeededRandom random(1, "usage a");
  const uint64_t first = random.next();
  EXPECT_EQ(SeededRandom(1, "usage a").next(), first);
  EXPECT_NE(SeededRandom(2, "usage a").next(), first);
  EXPECT_NE(SeededRandom(1, "usage b").next(), first);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[random.below(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
  std::vector<int> chosen(5);
  for (int i = 0; i < 10000; ++i) {
    std::vector<uint32_t> elements = {0, 1, 2, 3, 4};
    random.choose(elements, 2);
    ++chosen[elements[0]];
    ++chosen[elements[1]];
  }
  for (const int count : chosen) EXPECT_NEAR(count, 4000, 250);
}

TEST(JsDivergence, IsInBits) {
  const Reals a = {2, 0}, b = {0, 5}, c = {1, 1}, none = {0, 0};
  EXPECT_DOUBLE_EQ(js_divergence(a.data(), b.data(), 2), 1);
  EXPECT_DOUBLE_EQ(js_divergence(a.data(), a.data(), 2), 0);
  // Shares (1, 0) and (1/2, 1/2), middle (3/4, 1/4).
  EXPECT_DOUBLE_EQ(js_divergence(a.data(), c.data(), 2),
                   0.5 * std::log2(4.0 / 3) + 0.25 * std::log2(2.0 / 3) + 0.25 * std::log2(2));
  EXPECT_TRUE(std::isnan(js_divergence(a.data(), none.data(), 2)));
}

TEST(Groups, ComparesUsage) {
  // code: five samples on expert 0; text: five on expert 1. One token of no group.
  std::vector<std::pair<int32_t, int32_t>> samples;
  for (int s = 0; s < 10; ++s) samples.emplace_back(s / 5, s / 5);
  samples.emplace_back(-1, 0);
  const RoutingTokens tokens = samples_of(samples);
  const Result result = analyse(*make_groups(tokens.shape(), {}), tokens);
  const Table &usage = result.tables.at(0), &difference = result.tables.at(1);
  EXPECT_EQ(usage.name(), "group_usage");
  EXPECT_EQ(column_names(usage), (Names{"component", "layer", "group", "samples", "tokens", "expert_id", "usage",
                                        "usage_low", "usage_high"}));
  EXPECT_EQ(texts(usage, "group"), (Names{"code", "code", "text", "text"}));
  EXPECT_EQ(integers(usage, "samples"), (std::vector<int64_t>{5, 5, 5, 5}));
  EXPECT_EQ(integers(usage, "tokens"), (std::vector<int64_t>{5, 5, 5, 5}));
  EXPECT_EQ(reals(usage, "usage"), (Reals{1, 0, 0, 1}));
  EXPECT_EQ(reals(usage, "usage_low"), (Reals{1, 0, 0, 1}));  // all samples are alike
  EXPECT_EQ(reals(usage, "usage_high"), (Reals{1, 0, 0, 1}));
  EXPECT_EQ(column_names(difference), (Names{"component", "layer", "group_a", "group_b", "js_divergence", "p_value"}));
  EXPECT_EQ(texts(difference, "group_a"), Names{"code"});
  EXPECT_EQ(texts(difference, "group_b"), Names{"text"});
  EXPECT_EQ(reals(difference, "js_divergence")[0], 1);
  // 2 of the C(10, 5) = 252 labelings are as far apart: p is near 2 / 252.
  EXPECT_NEAR(reals(difference, "p_value")[0], 2.0 / 252, 0.008);
  ASSERT_EQ(result.notices.size(), 1U);
  EXPECT_NE(result.notices[0].find("1 token "), std::string::npos);
}

TEST(Groups, BoundsHoldTheUsage) {
  std::vector<std::pair<int32_t, int32_t>> samples;
  for (int s = 0; s < 100; ++s) samples.emplace_back(0, s % 4 == 0);
  const RoutingTokens tokens = samples_of(samples);
  const Table usage = analyse(*make_groups(tokens.shape(), {}), tokens).tables.at(0);
  // 75 of 100: a bootstrap of a share of 0.75 has the deviation sqrt(0.75 * 0.25 / 100) = 0.043.
  EXPECT_EQ(reals(usage, "usage")[0], 0.75);
  EXPECT_NEAR(reals(usage, "usage_low")[0], 0.75 - 1.96 * 0.0433, 0.02);
  EXPECT_NEAR(reals(usage, "usage_high")[0], 0.75 + 1.96 * 0.0433, 0.02);
  EXPECT_EQ(integers(usage, "samples")[2], 0);  // text has none
  EXPECT_TRUE(std::isnan(reals(usage, "usage")[2]));
  EXPECT_TRUE(std::isnan(reals(usage, "usage_low")[2]));
}

TEST(Groups, ChanceAloneGivesLargePValues) {
  std::mt19937 random(11);
  int small = 0;
  for (int repeat = 0; repeat < 40; ++repeat) {
    std::vector<std::pair<int32_t, int32_t>> samples;
    for (int s = 0; s < 30; ++s) samples.emplace_back(s % 2, static_cast<int32_t>(random() % 2));
    const RoutingTokens tokens = samples_of(samples);
    StudyOptions options;
    options.draws = 200;
    small += reals(analyse(*make_groups(tokens.shape(), options), tokens).tables.at(1), "p_value")[0] <= 0.1;
  }
  EXPECT_LE(small, 10);  // some 4 of 40
}

TEST(Groups, AreTheSameForAnySplit) {
  std::mt19937 random(7);
  StudyOptions options;
  options.draws = 50;
  for (int repeat = 0; repeat < 4; ++repeat) {
    const RoutingTokens tokens = random_tokens(random);
    expect_same_for_any_split([&] { return make_groups(tokens.shape(), options); }, tokens, Order::kSamples, random);
  }
}

TEST(Groups, RefuseAPartialThatIsCutShort) {
  std::mt19937 random(8);
  const RoutingTokens tokens = random_tokens(random);
  const auto study = make_groups(tokens.shape(), {});
  study->observe(tokens.all());
  ByteSink sink;
  study->save(sink);
  for (size_t size = 0; size < sink.bytes().size(); size += 7) {
    ByteSource source(std::string_view(sink.bytes()).substr(0, size));
    EXPECT_THROW(make_groups(tokens.shape(), {})->load(source), std::runtime_error) << size;
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
