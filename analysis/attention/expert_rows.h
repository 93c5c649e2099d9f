#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "analysis/attention/attention_rows.h"
#include "analysis/attention/attention_sums.h"

namespace moetap::analysis {

// Note [Sums by expert of few tokens]
// The sums of one expert are some 300 numbers, of which a token fills the tenth part, in each of its experts. A step of
// generation has one token: what its sums are made of is shorter than the sums. So these rows are kept and added later,
// by whoever needs the sums. Sums are exact: it makes no difference to a bit when they are added, and with what.

/// The rows of an attention layer that have values, and the slots of their tokens: what `add_experts` adds. Tensors are
/// contiguous and on the host; copies share them.
struct ExpertRows {
  int64_t num_heads = 0;
  int64_t num_regions = 0;
  int64_t num_experts = 0;
  bool self = true;
  int64_t top_k = 0;

  at::Tensor values;    // float32 [T, num_expert_row_values(R)]
  at::Tensor region;    // uint8 [T]: of the query
  at::Tensor position;  // int32 [T]
  at::Tensor num_keys;  // int32 [T]: n
  at::Tensor length;    // int32 [T]: as AttentionRows::length
  at::Tensor weight;    // float64 [T]: as AttentionRows::weight
  at::Tensor selected;  // int32 [T, K]; -1: unused
  at::Tensor weights;   // float32 [T, K]; undefined: 1 a slot

  int64_t num_rows() const { return region.defined() ? region.size(0) : 0; }
};

/// Columns of ExpertRows::values: distance, received, of which neither is a share; entropy, diagonal, far and what is
/// expected of both; the regions; the columns of AttentionRows::bins.
inline constexpr int64_t kExpertRowNoShares = 2;
constexpr int64_t num_expert_row_values(int64_t num_regions) {
  return kExpertRowNoShares + 5 + num_regions + kNumAttentionBins;
}

/// The rows of a call on the host, for tokens that stand on its lines. line: int64 [T]; selected: int64 [T, K], in 32
/// bits; weights: float32 [T, K], or undefined.
ExpertRows expert_rows(const AttentionRows& rows, int64_t num_experts, const at::Tensor& line,
                       const at::Tensor& selected, const at::Tensor& weights);

/// Adds rows to host sums of one row, as `add_experts` adds the lines that they were made of: the same bits. `sums` may
/// be default-constructed.
void add_experts(AttentionSums& sums, const ExpertRows& rows);

/// The same rows behind each other. All must be of one layer and router.
ExpertRows joined(const std::vector<ExpertRows>& rows);

/// Whether rows are shorter than the sums that they would be added to, those of `num_experts` experts.
bool are_shorter_than_sums(int64_t num_rows, int64_t top_k, int64_t num_regions, int64_t num_experts);

}  // namespace moetap::analysis
