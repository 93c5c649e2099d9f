#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "analysis/attention/attention_rows.h"
#include "analysis/attention/attention_sums_layout.h"

namespace moetap::analysis {

/// The sums of one attention layer over the rows of `num_rows` samples. Everything that is reported about it is
/// computed from them (`finalize`). Adding is exact in any order and grouping: see Note [Exact sums] and Note [Layout
/// of attention sums].
///
/// A value type: copies share `words`, the functions below give fresh tensors. Default-constructed: nothing measured.
struct AttentionSums {
  int64_t num_heads = 0;
  int64_t num_regions = 0;
  int64_t num_experts = 0;  // of the router that goes with the layer; 0: none
  int64_t num_rows = 0;
  bool self = true;         // the queries are keys
  bool has_shared = false;  // what is there once a call is there (never in a selected row)
  at::Tensor words =
      {};  // int64 [layout().words(), or layout().shared_begin()], contiguous; undefined: nothing measured

  int64_t pending_terms = 0;  // terms added since `normalize`, at most; see Note [Exact sums] for what limbs can hold

  bool defined() const { return words.defined(); }
  AttentionSumsLayout layout() const { return {num_heads, num_regions, num_experts, num_rows}; }

  /// A counter of a row, or of all. The sums must lie on the host.
  int64_t counter(int64_t row, AttentionCounter which) const;
  int64_t counter(AttentionCounter which) const;
};

/// Sums of nothing, ready to be added to. num_experts = 0: without those of experts. One allocation on `device`.
AttentionSums empty_attention_sums(int64_t num_heads, int64_t num_regions, bool self, int64_t num_experts,
                                   int64_t num_rows, at::Device device = at::kCPU);

/// Adds the rows of a call. row: int64 [B], the row of the sums of each sequence, or [B * Sq] of each line, on the
/// call's device; not in [0, num_rows): left out. Undefined: all go to the only row, or sequence b to row b of B. What
/// is summed by head counts for a sequence one of whose lines has a row. CPU: computed before the return, and
/// normalized; other devices: moetap's kernels on the current stream where there are some that take the call, else
/// LibTorch operations; no synchronisation.
void add_rows(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row);

/// Adds the rows to the sums of the experts that their tokens went to. selected: int64 or int32 [B * Sq, K], -1 for
/// unused slots; weights: [B * Sq, K], floating, gate weights as applied; undefined: 1 a slot. row: as for `add_rows`.
/// Lines are those of `rows`.
void add_experts(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row, const at::Tensor& selected,
                 const at::Tensor& weights);

/// Carries the low limbs into the high ones, in place. Host sums only. Throws c10::Error if a sum is beyond 5.7e17.
void normalize(AttentionSums& sums);

/// Adds `from` to `into`, row by row, exactly. Host sums only. `into` may be default-constructed. Throws c10::Error if
/// heads, regions, experts or the number of rows differ, if only one has what is shared, or if a sum overflows; `into`
/// is then unchanged.
void merge(AttentionSums& into, const AttentionSums& from);

/// One row that holds the sum of all rows, with what is shared. Host sums only.
AttentionSums sum_rows(const AttentionSums& sums);

/// One row on its own, without what is shared. Host sums only.
AttentionSums select_row(const AttentionSums& sums, int64_t row);

}  // namespace moetap::analysis
