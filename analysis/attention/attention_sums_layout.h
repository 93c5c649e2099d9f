#pragma once

#include <cstdint>

#include "analysis/attention/attention_columns.h"
#include "analysis/attention/attention_rows.h"

namespace moetap::analysis {

// Note [Layout of attention sums]
// The sums of one attention layer are one flat int64 tensor, as those of a router:
//
//   row 0 | row 1 | ... | shared counters | high limbs | low limbs | largest scores
//
// A row (a sample of the forward) holds kNumAttentionCounters counters, then sums: of the rows' weights, then of each
// column of the values, weighted; all their high limbs precede the low ones. What is behind the rows is there once a
// call, since only the run's summary needs it: `num_shared_sums` sums, high limbs first, and H codes of scores
// (`score_code`), which are merged by their maximum. Everything else is merged by adding.

enum AttentionCounter : int64_t {
  kQueries,        // valid queries, those that are not sampled too
  kMeasuredRows,   // rows with values
  kEmptyRows,      // queries whose keys are all masked
  kNotFiniteRows,  // rows with an infinite or NaN probability; left out
  kNumAttentionCounters,
};

enum AttentionSharedCounter : int64_t {
  kUnassignedSlots,    // of rows, whose id is no expert; left out
  kWeightsOutOfRange,  // gate weights that are infinite, NaN or too large; left out
  kNumSharedCounters,
};

/// Of each expert, in this order; g: the gate weight of a slot of the row, times the row's weight.
enum ExpertSum : int64_t {
  kGateMass,        // g
  kExpertDistance,  // g * distance
  kExpertEntropy,   // g * entropy
  kExpertReceived,  // g * received
  kNumExpertScalars,
};

struct AttentionSumsLayout {
  int64_t num_heads = 0;
  int64_t num_regions = 0;
  int64_t num_experts = 0;  // 0: no router goes with the layer
  int64_t num_rows = 0;

  constexpr int64_t num_columns() const { return num_attention_columns(num_regions); }

  /// Sums of a row: the weight, then the columns.
  constexpr int64_t row_sums() const { return 1 + num_columns(); }
  constexpr int64_t row_words() const { return kNumAttentionCounters + 2 * row_sums(); }
  /// Offsets from the start of a row; of column c: 1 + c.
  static constexpr int64_t row_high(int64_t sum) { return kNumAttentionCounters + sum; }
  constexpr int64_t row_low(int64_t sum) const { return row_high(row_sums()) + sum; }

  // Numbers of shared sums.
  constexpr int64_t flow(int64_t from, int64_t to) const { return from * num_regions + to; }
  constexpr int64_t observed(int64_t plane_region) const { return num_regions * num_regions + plane_region; }
  constexpr int64_t expected(int64_t plane_region) const { return observed(kNumPlaneRegions) + plane_region; }
  /// What a column adds to the variance of its estimated total: see Note [Standard errors].
  constexpr int64_t variance(int64_t column) const { return expected(kNumPlaneRegions) + column; }
  constexpr int64_t head(int64_t head, int64_t sum) const {
    return variance(num_columns()) + head * kNumHeadSums + sum;
  }
  constexpr int64_t expert(int64_t expert) const { return head(num_heads, 0) + expert * expert_sums(); }
  constexpr int64_t num_shared_sums() const { return expert(num_experts); }

  // Offsets from `expert`.
  constexpr int64_t expert_flow(int64_t from, int64_t to) const { return kNumExpertScalars + flow(from, to); }
  constexpr int64_t expert_observed(int64_t plane_region) const {
    return kNumExpertScalars + num_regions * num_regions + plane_region;
  }
  constexpr int64_t expert_expected(int64_t plane_region) const {
    return expert_observed(kNumPlaneRegions) + plane_region;
  }
  constexpr int64_t pattern(int64_t query_bin, int64_t key_bin) const {
    return expert_expected(kNumPlaneRegions) + query_bin * kPatternBins + key_bin;
  }
  constexpr int64_t pattern_weight(int64_t query_bin) const { return pattern(kPatternBins, 0) + query_bin; }
  constexpr int64_t expert_sums() const { return pattern_weight(kPatternBins); }

  // Offsets from the start of the words.
  constexpr int64_t shared_begin() const { return num_rows * row_words(); }
  constexpr int64_t high(int64_t sum) const { return shared_begin() + kNumSharedCounters + sum; }
  constexpr int64_t low(int64_t sum) const { return high(num_shared_sums()) + sum; }
  constexpr int64_t max_score(int64_t head) const { return low(num_shared_sums()) + head; }
  constexpr int64_t words() const { return max_score(num_heads); }
};

}  // namespace moetap::analysis
