#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/studies/token_batch.h"
#include "analysis/studies/used_rows.h"

namespace moetap::analysis::studies {

/// The accesses of a layer's experts in a sample, in order; see make_expert_cache. Keeps its memory between samples.
class CacheAccesses {
 public:
  /// `phase`: which accesses are counted, prompt, generation or all. Throws std::runtime_error for any other.
  CacheAccesses(int64_t num_experts, const std::string& phase);

  /// Takes the accesses of the tokens [first, last), which are one sample; `ranked`: the layer's rows, by weight.
  void take_sample(const TokenBatch& batch, const UsedRows& ranked, int64_t first, int64_t last);

  const std::vector<int32_t>& experts() const { return experts_; }
  /// Of each access: place of the next access of the expert in the sample, or OptimalStack::kNever.
  const std::vector<uint32_t>& next_use() const { return next_use_; }
  /// [E]: place of the first access of each expert in the sample, or OptimalStack::kNever.
  const std::vector<uint32_t>& first_use() const { return first_use_; }
  /// Calls `use(i)` for each access that is counted.
  template <typename Use>
  void for_counted(const Use& use) const {
    for (const Stretch& stretch : stretches_) {
      if (!(stretch.is_prompt ? counts_prompt_ : counts_generation_)) continue;
      for (size_t i = stretch.first; i < stretch.last; ++i) use(i);
    }
  }

 private:
  struct Stretch {
    bool is_prompt = false;
    size_t first = 0, last = 0;
  };

  void find_next_uses();

  bool counts_prompt_ = false, counts_generation_ = false;
  std::vector<int32_t> experts_;
  std::vector<Stretch> stretches_;  // of accesses of one phase
  std::vector<uint32_t> next_use_, first_use_;
  std::vector<int64_t> last_forward_;  // [E] number of the prompt forward that accessed it last
  int64_t num_forwards_ = 0;
};

}  // namespace moetap::analysis::studies
