#include "analysis/attention/expert_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/analysis/attention/attention_calls.h"

namespace moetap::analysis {
namespace {

constexpr int64_t kExperts = 6, kTopK = 2;

/// A call with padding, empty rows and, if asked for, rows that are not measured; its tokens and their slots.
struct TokensOfTest {
  AttentionRows rows;
  at::Tensor line;      // int64 [T]: the lines of the tokens, not in order
  at::Tensor selected;  // int64 [T, K]; some are no expert's
  at::Tensor weights;   // float32 [T, K]; one is infinite
};

TokensOfTest random_tokens(bool sampled) {
  CallOfTest test = random_call({3, 2, 1, 20, 20, 8});
  test.tokens.query_position = test.tokens.key_position = positions_of({20, 11, 1}, 20);
  test.call.mask = (test.tokens.key_position >= 0).view({3, 1, 1, 20}).logical_and(at::rand({20, 20}) > 0.2);
  test.call.mask.select(2, 5).fill_(false);
  if (sampled) test.tokens.sampled = at::rand({3, 20}) > 0.4;
  TokensOfTest result;
  result.rows = measure_attention(test.call, test.tokens);
  const at::Tensor valid = result.rows.position.ge(0).nonzero().squeeze(1);
  result.line = valid.index_select(0, at::randperm(valid.size(0)));
  result.selected = at::randint(-1, kExperts + 1, {valid.size(0), kTopK}, at::kLong);
  result.weights = at::randn({valid.size(0), kTopK});
  result.weights[1][0] = INFINITY;
  return result;
}

/// What `add_experts` makes of the lines.
AttentionSums sums_of_lines(const TokensOfTest& tokens, bool weighted) {
  const AttentionRows& rows = tokens.rows;
  AttentionSums sums = empty_attention_sums(rows.num_heads, rows.num_regions, rows.self, kExperts, 1);
  const auto on_lines = [&](const at::Tensor& values, double fill) {
    return at::full({rows.num_lines(), kTopK}, fill, values.options()).index_copy_(0, tokens.line, values);
  };
  add_experts(sums, rows, at::zeros({rows.num_lines()}, at::kLong), on_lines(tokens.selected, -1),
              weighted ? on_lines(tokens.weights, 0) : at::Tensor());
  // Lines without a token are padding, whose slots are not looked at.
  return sums;
}

TEST(ExpertRowsTest, GiveTheSameBitsAsTheLines) {
  for (const bool sampled : {false, true}) {
    for (const bool weighted : {false, true}) {
      at::manual_seed(3);
      const TokensOfTest tokens = random_tokens(sampled);
      const AttentionSums expected = sums_of_lines(tokens, weighted);
      const ExpertRows rows =
          expert_rows(tokens.rows, kExperts, tokens.line, tokens.selected, weighted ? tokens.weights : at::Tensor());
      EXPECT_LT(rows.num_rows(), tokens.line.size(0)) << "empty rows are none";
      AttentionSums sums;
      add_experts(sums, rows);
      EXPECT_EQ(sums.num_experts, kExperts);
      EXPECT_TRUE(at::equal(sums.words, expected.words)) << sampled << weighted;
    }
  }
}

TEST(ExpertRowsTest, MayBeAddedInAnyGrouping) {
  at::manual_seed(4);
  const TokensOfTest tokens = random_tokens(true);
  const AttentionSums expected = sums_of_lines(tokens, true);
  std::vector<ExpertRows> parts;
  AttentionSums one_by_one;
  const int64_t num_tokens = tokens.line.size(0);
  for (int64_t begin = 0; begin < num_tokens; begin += 5) {
    const int64_t count = std::min<int64_t>(5, num_tokens - begin);
    parts.push_back(expert_rows(tokens.rows, kExperts, tokens.line.narrow(0, begin, count),
                                tokens.selected.narrow(0, begin, count), tokens.weights.narrow(0, begin, count)));
    add_experts(one_by_one, parts.back());
  }
  EXPECT_TRUE(at::equal(one_by_one.words, expected.words));
  AttentionSums together;
  add_experts(together, joined(parts));
  EXPECT_TRUE(at::equal(together.words, expected.words));
}

TEST(ExpertRowsTest, NoRowsGiveEmptySums) {
  at::manual_seed(5);
  const TokensOfTest tokens = random_tokens(false);
  const at::Tensor none = tokens.line.narrow(0, 0, 0);
  const ExpertRows rows = expert_rows(tokens.rows, kExperts, none, tokens.selected.narrow(0, 0, 0), at::Tensor());
  EXPECT_EQ(rows.num_rows(), 0);
  AttentionSums sums;
  add_experts(sums, rows);
  EXPECT_TRUE(sums.defined());
  EXPECT_EQ(at::count_nonzero(sums.words).item<int64_t>(), 0);
}

TEST(ExpertRowsTest, OfDifferentLayersAreNotJoined) {
  at::manual_seed(6);
  const TokensOfTest tokens = random_tokens(false);
  const ExpertRows rows = expert_rows(tokens.rows, kExperts, tokens.line, tokens.selected, tokens.weights);
  ExpertRows others = rows;
  others.num_experts = kExperts + 1;
  EXPECT_THROW(joined({rows, others}), c10::Error);
  others = rows;
  others.weights = at::Tensor();
  EXPECT_THROW(joined({rows, others}), c10::Error);
}

TEST(ExpertRowsTest, AreShorterForFewTokens) {
  EXPECT_TRUE(are_shorter_than_sums(1, 8, 5, 64));
  EXPECT_TRUE(are_shorter_than_sums(1, 1, 5, 8));
  EXPECT_TRUE(are_shorter_than_sums(32, 8, 5, 64));
  EXPECT_FALSE(are_shorter_than_sums(4096, 2, 5, 8));
  EXPECT_FALSE(are_shorter_than_sums(4096, 8, 5, 64));
}

}  // namespace
}  // namespace moetap::analysis
