#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "analysis/studies/used_rows.h"
#include "analysis/studies/vector_loops.h"

namespace moetap::analysis::studies {

/// On how many different GPUs the experts of a token lie, for several placements at once: each expert has a bit of its
/// GPU for every placement, so that a token's are the union of its experts' bits.
class GpuSets {
 public:
  /// placements [P][E]: the GPU of each expert; num_gpus [P].
  GpuSets(const std::vector<std::vector<int32_t>>& placements, const std::vector<int64_t>& num_gpus,
          size_t num_experts) {
    first_word_.push_back(0);
    for (const int64_t gpus : num_gpus)
      first_word_.push_back(first_word_.back() + (static_cast<size_t>(gpus) + 63) / 64);
    bits_.resize(num_experts * num_words());
    counts_.resize(num_words());
    for (size_t p = 0; p < placements.size(); ++p) {
      for (size_t e = 0; e < num_experts; ++e) {
        const auto gpu = static_cast<size_t>(placements[p][e]);
        bits_[e * num_words() + first_word_[p] + gpu / 64] |= uint64_t{1} << (gpu % 64);
      }
    }
  }

  /// Adds all tokens of the rows.
  void add(const UsedRows& rows) {
    if (rows.is_whole()) {
      loops_.count_united_bits(bits_.data(), num_words(), rows.ids, rows.width, counts_.data());
      return;
    }
    for (int64_t t = 0; t < rows.num_tokens; ++t) {
      const std::span<const int32_t> experts = rows.of(t);
      loops_.count_united_bits(bits_.data(), num_words(), experts, experts.size(), counts_.data());
    }
  }
  /// Adds the number of GPUs of all tokens since the last call to fanout [P].
  void take(std::vector<int64_t>& fanout) {
    for (size_t p = 0; p < fanout.size(); ++p) {
      for (size_t w = first_word_[p]; w < first_word_[p + 1]; ++w) fanout[p] += std::exchange(counts_[w], 0);
    }
  }

 private:
  size_t num_words() const { return first_word_.back(); }

  std::vector<size_t> first_word_;  // [P + 1]
  std::vector<uint64_t> bits_;      // [E, words]
  std::vector<int64_t> counts_;     // [words] bits of the tokens since `take`
  const VectorLoops& loops_ = vector_loops();
};

}  // namespace moetap::analysis::studies
