#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/studies/token_batch.h"
#include "analysis/studies/used_experts.h"

namespace moetap::analysis::studies {

/// One access of an expert of a layer.
struct CacheAccess {
  int32_t expert = 0;
  bool is_counted = false;
  uint32_t next_use = 0;  // place of the next access of the expert in the sample, or OptimalStack::kNever
};

/// The accesses of a sample, in order; see make_expert_cache. Keeps its memory between samples.
class CacheAccesses {
 public:
  /// `phase`: which accesses are counted, prompt, generation or all. Throws std::runtime_error for any other.
  CacheAccesses(int64_t num_experts, const std::string& phase);

  /// The accesses of the tokens [first, last), which are one sample. Valid until the next call.
  const std::vector<CacheAccess>& of_sample(const TokenBatch& batch, const LayerTokens& layer, int64_t first,
                                            int64_t last);
  /// [E]: place of the first access of each expert in that sample, or OptimalStack::kNever.
  const std::vector<uint32_t>& first_use() const { return next_use_; }

 private:
  void find_next_uses();

  bool counts_prompt_ = false, counts_generation_ = false;
  UsedExperts used_;
  std::vector<CacheAccess> accesses_;
  std::vector<uint32_t> next_use_;     // [E]
  std::vector<int64_t> last_forward_;  // [E] number of the prompt forward that accessed it last
  int64_t num_forwards_ = 0;
};

}  // namespace moetap::analysis::studies
