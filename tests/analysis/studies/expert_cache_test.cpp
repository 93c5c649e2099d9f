#include "analysis/studies/expert_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Reals = std::vector<double>;

RoutingTokens generated(int64_t num_experts, const std::vector<std::vector<int32_t>>& ids,
                        const std::vector<std::vector<double>>& weights = {}) {
  RoutingTokens tokens = one_layer(num_experts, ids, weights);
  tokens.phase.assign(tokens.phase.size(), 1);
  return tokens;
}

Table table_of(const RoutingTokens& tokens, const StudyOptions& options = {}) {
  return analyse(*make_expert_cache(tokens.shape(), options), tokens).tables.at(0);
}

TEST(ExpertCache, CountsHitsOfEveryCapacity) {
  // Accesses 0 1 0 2 0. LRU: distances miss miss 2 miss 2. MIN the same. Most used: 0 (3), then 1 and 2 (1 each).
  const Table table = table_of(generated(3, {{0}, {1}, {0}, {2}, {0}}));
  EXPECT_EQ(column_names(table),
            (std::vector<std::string>{"component", "layer", "capacity", "accesses", "lru", "optimal", "static"}));
  EXPECT_EQ(integers(table, "capacity"), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(integers(table, "accesses"), (std::vector<int64_t>{5, 5, 5}));
  EXPECT_EQ(reals(table, "lru"), (Reals{0, 0.4, 0.4}));
  EXPECT_EQ(reals(table, "optimal"), (Reals{0, 0.4, 0.4}));
  EXPECT_EQ(reals(table, "static"), (Reals{0.6, 0.8, 1}));
}

TEST(ExpertCache, AccessesByRankOfWeight) {
  // Token 0 accesses 1 then 0 (weights 0.9, 0.1), token 1 accesses 0 then 2: with one expert the 0 hits.
  const Table table = table_of(generated(3, {{0, 1}, {2, 0}}, {{0.1, 0.9}, {0.4, 0.6}}));
  EXPECT_EQ(reals(table, "lru"), (Reals{0.25, 0.25, 0.25}));
  // Equal weights: the lower id first. 0 1, 0 2: the second 0 is at distance 2.
  const Table ties = table_of(generated(3, {{1, 0}, {2, 0}}, {{0.5, 0.5}, {0.5, 0.5}}));
  EXPECT_EQ(reals(ties, "lru"), (Reals{0, 0.25, 0.25}));
}

TEST(ExpertCache, AForwardOfThePromptAccessesEachExpertOnce) {
  // Prompt 0 1 0 | 1 of two forwards, then generation 0. Counted: the generation only.
  RoutingTokens tokens = one_layer(2, {{0}, {1}, {0}, {1}, {0}});
  tokens.phase = {0, 0, 0, 0, 1};
  tokens.forward = {0, 0, 0, 1, 2};
  const Table table = table_of(tokens);
  EXPECT_EQ(integers(table, "accesses"), (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(reals(table, "lru"), (Reals{0, 1}));
  StudyOptions options;
  options.cache_phase = "all";  // 0 1 | 1 | 0
  EXPECT_EQ(integers(table_of(tokens, options), "accesses"), (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(reals(table_of(tokens, options), "lru"), (Reals{0.25, 0.5}));
  options.cache_phase = "prompt";
  EXPECT_EQ(integers(table_of(tokens, options), "accesses"), (std::vector<int64_t>{3, 3}));
  options.cache_phase = "decode";
  EXPECT_THROW(table_of(tokens, options), std::runtime_error);
}

TEST(ExpertCache, IsColdAtEachSampleUnlessWarm) {
  RoutingTokens tokens = generated(2, {{0}, {0}});
  tokens.sample = {0, 1};
  EXPECT_EQ(reals(table_of(tokens), "lru"), (Reals{0, 0}));
  StudyOptions options;
  options.warm = true;
  EXPECT_EQ(reals(table_of(tokens, options), "lru"), (Reals{0.5, 0.5}));
  EXPECT_EQ(reals(table_of(tokens, options), "optimal"), (Reals{0.5, 0.5}));
  EXPECT_TRUE(make_expert_cache(tokens.shape(), options)->is_sequential());
  EXPECT_FALSE(make_expert_cache(tokens.shape(), {})->is_sequential());
}

TEST(ExpertCache, NamesTokensOfNoSample) {
  RoutingTokens tokens = generated(2, {{0}, {1}, {1}});
  tokens.sample = {0, -1, -1};
  const Result result = analyse(*make_expert_cache(tokens.shape(), {}), tokens);
  EXPECT_EQ(integers(result.tables[0], "accesses")[0], 1);
  EXPECT_EQ(reals(result.tables[0], "static"), (Reals{0, 1}));  // 1 is used most by the run
  ASSERT_EQ(result.notices.size(), 1U);
  EXPECT_NE(result.notices[0].find("2 tokens"), std::string::npos);
}

TEST(ExpertCache, HasNoRateWithoutAccesses) {
  const RoutingTokens tokens = one_layer(2, {{0}});
  EXPECT_TRUE(std::isnan(reals(table_of(tokens), "lru")[0]));
  EXPECT_EQ(integers(table_of(tokens), "accesses")[0], 0);
}

TEST(ExpertCache, IsTheSameForAnySplit) {
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const RoutingTokens tokens = random_tokens(random);
    expect_same_for_any_split([&] { return make_expert_cache(tokens.shape(), {}); }, tokens, Order::kSamples, random);
    const Table table = table_of(tokens);
    for (size_t row = 0; row < table.num_rows(); ++row) {  // no cache does better than MIN; a full one misses once each
      EXPECT_LE(reals(table, "lru")[row], reals(table, "optimal")[row]);
      if (integers(table, "capacity")[row] != 6) continue;
      EXPECT_EQ(reals(table, "lru")[row], reals(table, "optimal")[row]);
      EXPECT_EQ(reals(table, "static")[row], 1);
    }
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
