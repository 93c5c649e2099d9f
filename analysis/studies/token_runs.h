#pragma once

#include "analysis/studies/token_batch.h"

namespace moetap::analysis::studies {

/// Calls `use(first, last)` for each stretch [first, last) of consecutive tokens of one sample. In Order::kSamples it
/// is all of the sample, in the order of its tokens; tokens of sample −1 come in stretches of any length.
template <typename Use>
void for_samples(const TokenBatch& batch, const Use& use) {
  for (int64_t first = 0, last = 0; first < batch.num_tokens; first = last) {
    const auto i = static_cast<size_t>(first);
    for (last = first + 1; last < batch.num_tokens; ++last) {
      const auto j = static_cast<size_t>(last);
      if (batch.sample[j] != batch.sample[i] || batch.source[j] != batch.source[i]) break;
    }
    use(first, last);
  }
}

/// The same for stretches of one forward (Order::kForwards: all of the forward).
template <typename Use>
void for_forwards(const TokenBatch& batch, const Use& use) {
  for (int64_t first = 0, last = 0; first < batch.num_tokens; first = last) {
    const auto i = static_cast<size_t>(first);
    for (last = first + 1; last < batch.num_tokens; ++last) {
      const auto j = static_cast<size_t>(last);
      if (batch.forward[j] != batch.forward[i] || batch.source[j] != batch.source[i]) break;
    }
    use(first, last);
  }
}

/// The layer has a row of the token, and the token is no padding.
inline bool has_row(const TokenBatch& batch, const LayerTokens& layer, int64_t t) {
  return batch.is_valid(t) && layer.has_seen(t);
}

}  // namespace moetap::analysis::studies
