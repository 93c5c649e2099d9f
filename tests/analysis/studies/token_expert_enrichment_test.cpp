#include "analysis/studies/token_expert_enrichment.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/studies/hypergeometric.h"
#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

TEST(TokenExpertEnrichment, FindsTokensThatMeetAnExpertTooOften) {
  // 20 tokens: id 3 six times, always expert 1; id 4 ten times and unknown four times, expert 0 but for one.
  std::vector<std::vector<int32_t>> ids;
  for (int t = 0; t < 20; ++t) ids.push_back({t < 6 || t == 6 ? 1 : 0});
  RoutingTokens tokens = one_layer(2, ids);
  for (size_t t = 0; t < 20; ++t) tokens.token_id[t] = t < 6 ? 3 : t < 16 ? 4 : -1;
  StudyOptions options;
  options.token_text = [](int32_t id) { return id == 3 ? std::string("cat") : std::string(); };
  const Result result = analyse(*make_token_expert_enrichment(tokens.shape(), options), tokens);
  const Table& table = result.tables.at(0);
  EXPECT_EQ(column_names(table), (std::vector<std::string>{"component", "layer", "expert_id", "token_id", "text",
                                                           "count", "lift", "p_value"}));
  // Pairs with a count of five or more: (expert 0, id 4): 9 of 10, 13 of 20 used 0; (expert 1, id 3): 6 of 6, 7 of 20.
  EXPECT_EQ(integers(table, "expert_id"), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(integers(table, "token_id"), (std::vector<int64_t>{4, 3}));
  EXPECT_EQ(integers(table, "count"), (std::vector<int64_t>{9, 6}));
  EXPECT_EQ(texts(table, "text"), (std::vector<std::string>{"", "cat"}));
  EXPECT_DOUBLE_EQ(reals(table, "lift")[0], 0.9 / 0.65);
  EXPECT_DOUBLE_EQ(reals(table, "lift")[1], 1 / 0.35);
  // P(all six are among the seven) = C(7, 6) / C(20, 6) = 7 / 38760; the smaller of two: times two.
  EXPECT_NEAR(reals(table, "p_value")[1], 2 * 7.0 / 38760, 1e-15);
  // P(X >= 9), N = 20, M = 13, n = 10: (C(13, 9) C(7, 1) + C(13, 10)) / C(20, 10); the larger of two: as it is.
  EXPECT_NEAR(reals(table, "p_value")[0], (715.0 * 7 + 286) / 184756, 1e-13);
  EXPECT_NE(result.sentence.find("\"cat\""), std::string::npos) << result.sentence;
}

TEST(TokenExpertEnrichment, WritesFiftyIdsAnExpert) {
  // 60 ids, five times each, expert 0 for the first 30, expert 1 as well for all: p of expert 1 is 1 everywhere.
  std::vector<std::vector<int32_t>> ids;
  RoutingTokens tokens;
  for (int t = 0; t < 300; ++t) ids.push_back({1, t < 150 ? 0 : -1});
  tokens = one_layer(2, ids);
  for (size_t t = 0; t < 300; ++t) tokens.token_id[t] = static_cast<int32_t>(t / 5);
  const Table table = analyse(*make_token_expert_enrichment(tokens.shape(), {}), tokens).tables.at(0);
  ASSERT_EQ(table.num_rows(), 80U);
  EXPECT_EQ(integers(table, "token_id")[29], 29);
  EXPECT_EQ(integers(table, "token_id")[79], 49);  // ties: the lower ids
  EXPECT_EQ(reals(table, "p_value")[79], 1);
  EXPECT_EQ(reals(table, "lift")[79], 1);
}

TEST(TokenExpertEnrichment, HasNoPairsOfFewTokens) {
  RoutingTokens tokens = one_layer(2, {{0}, {0}, {0}, {0}});
  tokens.token_id = {1, 1, 1, 1};
  EXPECT_EQ(analyse(*make_token_expert_enrichment(tokens.shape(), {}), tokens).tables.at(0).num_rows(), 0U);
}

TEST(TokenExpertEnrichment, IsTheSameForAnySplit) {
  std::mt19937 random(6);
  for (int repeat = 0; repeat < 5; ++repeat) {
    RoutingTokens tokens = random_tokens(random);
    for (int32_t& id : tokens.token_id) id = id == 5 ? 2000000000 : id;  // an id beyond the list
    expect_same_for_any_split([&] { return make_token_expert_enrichment(tokens.shape(), {}); }, tokens, Order::kTokens,
                              random);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
