#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>

#include "analysis/routers/router_sums_layout.h"

namespace moetap::analysis {

/// The sums of one router over the tokens of `num_rows` samples. Everything that is reported about a router is computed
/// from them (`finalize`). Adding is exact in any order and grouping: see Note [Exact sums] and Note [Layout of router
/// sums].
///
/// A value type: copies share `words`, the functions below give fresh tensors. Default-constructed: nothing observed
/// yet.
struct RouterSums {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t num_rows = 0;
  bool has_pairs = false;  // the table of pairs is there (never for top_k == 1, nor in a selected row)
  // int64 [layout().words(), without the pairs if !has_pairs], contiguous; undefined: nothing observed
  at::Tensor words = {};

  int64_t pending_terms = 0;  // terms added since `normalize`, at most; see Note [Exact sums] for what limbs can hold

  bool defined() const { return words.defined(); }
  RouterSumsLayout layout() const { return {num_experts, top_k, num_rows}; }

  /// Tokens of a row, or of all rows. The sums must lie on the host.
  int64_t tokens(int64_t row) const {
    TORCH_CHECK(row >= 0 && row < num_rows, "router sums: row must be in [0, ", num_rows, "), got ", row);
    return word(row, RouterSumsLayout::counter(kTokens));
  }
  int64_t tokens() const { return counter(kTokens); }
  /// A counter, summed over the rows; of a scalar sum the terms that were out of range. The sums must lie on the host.
  int64_t counter(RowCounter which) const { return sum_over_rows(RouterSumsLayout::counter(which)); }
  int64_t out_of_range(RowScalarSum which) const {
    return sum_over_rows(RouterSumsLayout::scalar_sum(which) + kTermsOutOfRange);
  }

 private:
  int64_t word(int64_t row, int64_t offset) const {
    TORCH_CHECK(words.is_cpu(), "router sums must be on the host to be read, got ", words.device());
    return words.const_data_ptr<int64_t>()[row * layout().row_words() + offset];
  }
  int64_t sum_over_rows(int64_t offset) const {
    int64_t total = 0;
    for (int64_t row = 0; defined() && row < num_rows; ++row) total += word(row, offset);
    return total;
  }
};

/// Tokens whose first slot is expert i in one MoE layer and expert j in the next of its component. Merging is exact.
struct TransitionSums {
  int64_t num_experts_from = 0;
  int64_t num_experts_to = 0;
  at::Tensor counts;  // int64 [num_experts_from, num_experts_to]; undefined: nothing observed
};

}  // namespace moetap::analysis
