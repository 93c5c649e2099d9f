#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "analysis/studies/used_rows.h"
#include "analysis/studies/vector_loops.h"

namespace moetap::analysis::studies {

/// Counts which experts of two layers meet in a token, in bytes that stay in a core's cache, and adds them to the sums
/// of the run before one is full. Worth its while from about as many tokens on as the layers have experts.
class PairCounts {
 public:
  /// Of the tokens [first, last) of two layers whose rows are whole and distinct: both [from, to] += 1 for each pair.
  void add(const UsedRows& from, const UsedRows& to, int64_t first, int64_t last, size_t num_from, size_t num_to,
           int64_t* both) {
    constexpr size_t kMostTokens = 255 / kPairTokens * kPairTokens;  // a byte holds so many
    const size_t width = (num_to + kByteLanes - 1) / kByteLanes * kByteLanes;
    flags_.resize(kPairTokens * width);
    counts_.assign(num_from * width, 0);
    size_t counted = 0;
    for (auto t = static_cast<size_t>(first); t < static_cast<size_t>(last); t += kPairTokens) {
      const size_t tokens = std::min(kPairTokens, static_cast<size_t>(last) - t);
      loops_.count_pairs(from.ids.subspan(t * from.width, tokens * from.width), from.width,
                         to.ids.subspan(t * to.width, tokens * to.width), to.width, width, flags_.data(),
                         counts_.data());
      counted += tokens;
      if (counted < kMostTokens && t + tokens < static_cast<size_t>(last)) continue;
      for (size_t e = 0; e < num_from; ++e) loops_.take_bytes(counts_.data() + e * width, num_to, both + e * num_to);
      counted = 0;
    }
  }

 private:
  std::vector<uint8_t> flags_, counts_;
  const VectorLoops& loops_ = vector_loops();
};

}  // namespace moetap::analysis::studies
