#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "analysis/studies/token_batch.h"
#include "analysis/studies/used_experts.h"
#include "analysis/studies/vector_loops.h"

namespace moetap::analysis::studies {

/// The experts that each token of one layer of a batch used: Note [Used experts]. Views.
struct UsedRows {
  std::span<const int32_t> ids;    // [T, width], a row's experts first
  std::span<const int32_t> count;  // [T] how many a row has, −1: the layer has no row of the token; empty: all `width`
  int64_t num_tokens = 0;          // T
  size_t width = 0;

  /// Every token has a row, and its experts are all of its slots.
  bool is_whole() const { return count.empty(); }
  bool has_row(int64_t t) const { return is_whole() || count[static_cast<size_t>(t)] >= 0; }
  /// Empty where there is no row.
  std::span<const int32_t> of(int64_t t) const {
    const auto row = static_cast<size_t>(t);
    if (is_whole()) return ids.subspan(row * width, width);
    return ids.subspan(row * width, count[row] > 0 ? static_cast<size_t>(count[row]) : 0);
  }
  /// Of the tokens [first, last).
  int64_t num_rows(int64_t first, int64_t last) const {
    if (is_whole()) return last - first;
    int64_t rows = 0;
    for (int64_t t = first; t < last; ++t) rows += has_row(t) ? 1 : 0;
    return rows;
  }
  /// Adds 1 to the counter of each expert of each of the tokens [first, last). counts: [E].
  template <typename Count>
  void add_counts(int64_t first, int64_t last, Count* counts) const {
    if (is_whole()) {
      for (const int32_t expert :
           ids.subspan(static_cast<size_t>(first) * width, static_cast<size_t>(last - first) * width)) {
        ++counts[expert];
      }
      return;
    }
    for (int64_t t = first; t < last; ++t) {
      for (const int32_t expert : of(t)) ++counts[expert];
    }
  }
};

// Note [Rows as they are]
// In most batches every token has a row, all of its slots hold an expert, no expert stands in two of them, and the
// model gives them in the order of weights. Then the slots are the used experts, and nothing is copied: the check takes
// a few ns a token, once for all studies of a worker (TokenBatch::used). Else rows are made, once as well.

/// The used experts of the layers of a batch. Used by one thread.
class UsedRowsOfBatch {
 public:
  enum class Order { kSlots, kDistinct, kRanked };

  /// Before each batch. Without it nothing is kept between calls.
  void begin() {
    keeps_ = true;
    for (Layer& layer : layers_) layer.known = Known();
  }

  /// Those of batch.used, if it is set. Valid until the next batch, or the next call for this layer and order.
  const UsedRows& in_order(const TokenBatch& batch, size_t layer) { return of(batch, layer, Order::kSlots); }
  const UsedRows& distinct(const TokenBatch& batch, size_t layer) { return of(batch, layer, Order::kDistinct); }
  const UsedRows& ranked(const TokenBatch& batch, size_t layer) { return of(batch, layer, Order::kRanked); }

 private:
  struct Known {
    bool is_whole_known = false, is_whole = false;  // all slots of all tokens are used
    bool has_rows[3] = {};                          // by Order
  };
  struct Layer {
    Known known;
    UsedRows rows[3];
    std::vector<int32_t> ids[3], count[3];
  };

  const UsedRows& of(const TokenBatch& batch, size_t layer, Order order);
  bool is_whole(const TokenBatch& batch, const LayerTokens& tokens) const;
  bool is_as_it_is(const LayerTokens& tokens, Order order) const;
  void make(const TokenBatch& batch, const LayerTokens& tokens, Order order, Layer& into);

  bool keeps_ = false;
  std::vector<Layer> layers_;
  UsedExperts used_;
  const VectorLoops& loops_ = vector_loops();
};

}  // namespace moetap::analysis::studies
