#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "analysis/attention/attention_sums.h"
#include "tests/analysis/attention/attention_calls.h"

namespace moetap::analysis {

inline constexpr int64_t kExperts = 6, kTopK = 2;

/// Rows of random sequences, where they belong and which experts they went to.
struct RowsOfTest {
  AttentionRows rows;
  at::Tensor row;       // int64 [B]
  at::Tensor selected;  // int64 [B * Sq, K]
  at::Tensor weights;
};

inline RowsOfTest random_rows(bool sampled = false, int64_t num_regions = 5) {
  CallOfTest test = random_call({4, 3, 1, 70, 70, 16});
  test.tokens.query_position = test.tokens.key_position = positions_of({70, 33, 1, 64}, 70);
  test.tokens.num_regions = num_regions;
  test.call.mask = (test.tokens.key_position >= 0).view({4, 1, 1, 70}).logical_and(at::rand({70, 70}) > 0.2);
  test.call.mask.select(2, 5).fill_(false);  // empty rows
  if (sampled) test.tokens.sampled = at::rand({4, 70}) > 0.6;
  RowsOfTest result;
  result.rows = measure_attention(test.call, test.tokens);
  result.row = at::tensor({1, 0, 1, 2}, at::kLong);
  result.selected = at::randint(-1, kExperts + 1, {4 * 70, kTopK}, at::kLong);
  result.weights = at::randn({4 * 70, kTopK});
  return result;
}

inline AttentionSums empty_sums(const RowsOfTest& test, int64_t num_rows = 3) {
  return empty_attention_sums(test.rows.num_heads, test.rows.num_regions, test.rows.self, kExperts, num_rows);
}

}  // namespace moetap::analysis
