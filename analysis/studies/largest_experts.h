#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moetap::analysis::studies {

/// Finds the K experts of largest value, ties to the lower id, for one token after the other. Keeps its memory.
template <typename Value>
class LargestExperts {
 public:
  /// Sets named[e] to 1 for the K largest of values [E], to 0 for the others.
  void name(const Value* values, size_t num_experts, size_t top_k, std::vector<uint8_t>& named) {
    named.assign(num_experts, 0);
    top_k = std::min(top_k, num_experts);
    if (top_k == 0) return;
    sorted_.assign(values, values + num_experts);
    std::nth_element(sorted_.begin(), sorted_.begin() + static_cast<std::ptrdiff_t>(top_k) - 1, sorted_.end(),
                     [](Value a, Value b) { return a > b; });
    const Value least = sorted_[top_k - 1];
    size_t count = 0;
    for (size_t e = 0; e < num_experts; ++e) {
      named[e] = values[e] > least;
      count += named[e];
    }
    for (size_t e = 0; count < top_k; ++e) {
      if (values[e] != least) continue;
      named[e] = 1;
      ++count;
    }
  }

 private:
  std::vector<Value> sorted_;
};

}  // namespace moetap::analysis::studies
