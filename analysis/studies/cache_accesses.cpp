#include "analysis/studies/cache_accesses.h"

#include <algorithm>
#include <stdexcept>

#include "analysis/studies/cache_stacks.h"
#include "analysis/studies/token_runs.h"

namespace moetap::analysis::studies {

CacheAccesses::CacheAccesses(int64_t num_experts, const std::string& phase)
    : counts_prompt_(phase == "prompt" || phase == "all"),
      counts_generation_(phase == "generation" || phase == "all"),
      next_use_(static_cast<size_t>(num_experts)),
      last_forward_(static_cast<size_t>(num_experts)) {
  if (!counts_prompt_ && !counts_generation_) {
    throw std::runtime_error("expert_cache counts the accesses of prompt, generation or all, not of \"" + phase + "\"");
  }
}

const std::vector<CacheAccess>& CacheAccesses::of_sample(const TokenBatch& batch, const LayerTokens& layer,
                                                         int64_t first, int64_t last) {
  accesses_.clear();
  bool in_prompt = false;
  int64_t forward = 0;
  for (int64_t t = first; t < last; ++t) {
    const auto i = static_cast<size_t>(t);
    const bool is_prompt = batch.phase[i] == 0;
    if (is_prompt && !(in_prompt && batch.forward[i] == forward)) {
      ++num_forwards_;
      forward = batch.forward[i];
    }
    in_prompt = is_prompt;
    if (!has_row(batch, layer, t)) continue;
    for (const int32_t expert : used_.ranked(layer, t)) {
      if (is_prompt) {
        int64_t& accessed_in = last_forward_[static_cast<size_t>(expert)];
        if (accessed_in == num_forwards_) continue;
        accessed_in = num_forwards_;
      }
      accesses_.push_back({expert, is_prompt ? counts_prompt_ : counts_generation_, OptimalStack::kNever});
    }
  }
  if (accesses_.size() >= OptimalStack::kNever)
    throw std::runtime_error("expert_cache: a sample has over 2^31 accesses");
  find_next_uses();
  return accesses_;
}

void CacheAccesses::find_next_uses() {
  std::fill(next_use_.begin(), next_use_.end(), OptimalStack::kNever);
  for (size_t place = accesses_.size(); place > 0; --place) {
    CacheAccess& access = accesses_[place - 1];
    uint32_t& next = next_use_[static_cast<size_t>(access.expert)];
    access.next_use = next;
    next = static_cast<uint32_t>(place - 1);
  }
}

}  // namespace moetap::analysis::studies
