#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "analysis/studies/token_batch.h"

namespace moetap::analysis::studies {

// Note [Used experts]
// The experts that a token used are the ids of its slots whose weight is not 0, and all of its ids where the input has
// no weights. Slots are ranked by weight, ties to the lower id, NaN last; without weights they stay in the model's
// order.

/// Gives the experts that tokens used; see the note. Keeps the memory between calls; each result is valid until the
/// next call. Used by one thread.
class UsedExperts {
 public:
  /// In the model's order of slots.
  std::span<const int32_t> in_order(const LayerTokens& layer, int64_t t) {
    const auto top_k = static_cast<size_t>(layer.top_k), first = static_cast<size_t>(t) * top_k;
    reserve(top_k);
    size_t count = 0;
    if (layer.weights.empty()) {
      for (size_t k = 0; k < top_k; ++k) {
        ids_[count] = layer.ids[first + k];
        count += is_expert(layer, ids_[count]);
      }
    } else {
      for (size_t k = 0; k < top_k; ++k) {
        ids_[count] = layer.ids[first + k];
        count += is_expert(layer, ids_[count]) & (layer.weights[first + k] != 0);
      }
    }
    return {ids_.data(), count};
  }

  /// The same, each expert once (a router may name one in two slots).
  std::span<const int32_t> distinct(const LayerTokens& layer, int64_t t) {
    const std::span<const int32_t> all = in_order(layer, t);
    size_t count = 0;
    for (size_t k = 0; k < all.size(); ++k) {
      const int32_t id = all[k];
      bool is_new = true;
      for (size_t before = 0; before < count; ++before) is_new &= ids_[before] != id;
      ids_[count] = id;
      count += is_new;
    }
    return {ids_.data(), count};
  }

  /// The largest weight first.
  std::span<const int32_t> ranked(const LayerTokens& layer, int64_t t) {
    if (layer.weights.empty()) return in_order(layer, t);
    const auto top_k = static_cast<size_t>(layer.top_k), first = static_cast<size_t>(t) * top_k;
    reserve(top_k);
    size_t count = 0;
    for (size_t k = 0; k < top_k; ++k) {
      const int32_t id = layer.ids[first + k];
      double weight = layer.weights[first + k];
      if (!is_expert(layer, id) || weight == 0) continue;
      if (weight != weight) weight = -std::numeric_limits<double>::infinity();
      size_t place = count++;  // models give them nearly in order, so few are moved
      for (; place > 0; --place) {
        const double before = weights_[place - 1];
        if (before > weight || (before == weight && ids_[place - 1] < id)) break;
        weights_[place] = before;
        ids_[place] = ids_[place - 1];
      }
      weights_[place] = weight;
      ids_[place] = id;
    }
    return {ids_.data(), count};
  }

 private:
  static bool is_expert(const LayerTokens& layer, int32_t id) {
    return static_cast<uint64_t>(static_cast<int64_t>(id)) < static_cast<uint64_t>(layer.num_experts);
  }
  void reserve(size_t top_k) {
    if (ids_.size() <= top_k) {
      ids_.resize(top_k + 1);
      weights_.resize(top_k + 1);
    }
  }

  std::vector<int32_t> ids_;
  std::vector<double> weights_;
};

}  // namespace moetap::analysis::studies
