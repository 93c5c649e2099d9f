#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace moetap::analysis {

/// Whether tokens have margins: the distance between the gate weights of the first two slots.
constexpr bool has_margins(bool has_weights, int64_t top_k) {
  return has_weights && top_k > 1;
}

/// The tensors that one router call reported, in moetap's layout. All on one device; not modified, not kept.
struct RouterCall {
  at::Tensor logits;         // [num_tokens, num_experts], any floating dtype and strides; undefined: not captured
  at::Tensor probabilities;  // [num_tokens, num_experts], in [0, 2]: p; undefined: p is softmax(logits)
  at::Tensor scores;         // [num_tokens, num_experts], after the scoring function; undefined: the model has none
  at::Tensor selected;       // int64 [num_tokens, top_k], the model's order; -1: unused slot
  at::Tensor weights;        // [num_tokens, top_k], any floating dtype; undefined: the model has none
  int64_t num_experts = 0;
  bool sigmoid_scores = false;  // the router scores with a sigmoid: `score_entropy` is measured

  bool has_margins() const { return analysis::has_margins(weights.defined(), selected.size(1)); }
};

/// The order of the tokens of a call, where each row has the same number of tokens.
enum class RowOrder {
  kRowByRow,     // token t is of row t / (num_tokens / num_rows)
  kInterleaved,  // token t is of row t % num_rows
};

/// Which row of the sums (sample of the forward) each token of a call belongs to. A masked token counts nowhere.
struct TokenRows {
  // int64 [num_tokens] on the call's device; a token whose row is not in [0, num_rows) is masked. Undefined: each row
  // has the same number of tokens, in `order`.
  at::Tensor row;
  int64_t num_rows = 1;
  RowOrder order = RowOrder::kRowByRow;  // where `row` is undefined
  // bool [num_tokens] on the call's device, false: masked; undefined: all valid. Not beside `row`.
  at::Tensor valid = {};
};

}  // namespace moetap::analysis
