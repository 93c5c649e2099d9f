#include "analysis/studies/cache_accesses.h"

#include <algorithm>
#include <stdexcept>

#include "analysis/studies/cache_stacks.h"

namespace moetap::analysis::studies {

CacheAccesses::CacheAccesses(int64_t num_experts, const std::string& phase)
    : counts_prompt_(phase == "prompt" || phase == "all"),
      counts_generation_(phase == "generation" || phase == "all"),
      first_use_(static_cast<size_t>(num_experts)),
      last_forward_(static_cast<size_t>(num_experts)) {
  if (!counts_prompt_ && !counts_generation_) {
    throw std::runtime_error("expert_cache counts the accesses of prompt, generation or all, not of \"" + phase + "\"");
  }
}

void CacheAccesses::take_sample(const TokenBatch& batch, const UsedRows& ranked, int64_t first, int64_t last) {
  experts_.resize(static_cast<size_t>(last - first) * ranked.width);
  stretches_.clear();
  size_t size = 0;
  for (int64_t begin = first, end = first; begin < last; begin = end) {
    const auto i = static_cast<size_t>(begin);
    const bool is_prompt = batch.phase[i] == 0;
    const auto continues = [&](size_t t) {
      return (batch.phase[t] == 0) == is_prompt && (!is_prompt || batch.forward[t] == batch.forward[i]);
    };
    for (end = begin + 1; end < last && continues(static_cast<size_t>(end)); ++end) {
    }
    const size_t before = size;
    if (is_prompt) {
      ++num_forwards_;
      for (int64_t t = begin; t < end; ++t) {
        for (const int32_t expert : ranked.of(t)) {
          int64_t& accessed_in = last_forward_[static_cast<size_t>(expert)];
          experts_[size] = expert;
          size += accessed_in == num_forwards_ ? 0 : 1;
          accessed_in = num_forwards_;
        }
      }
    } else if (ranked.is_whole()) {
      const auto rows = ranked.ids.subspan(i * ranked.width, static_cast<size_t>(end - begin) * ranked.width);
      std::copy(rows.begin(), rows.end(), experts_.begin() + static_cast<std::ptrdiff_t>(size));
      size += rows.size();
    } else {
      for (int64_t t = begin; t < end; ++t) {
        for (const int32_t expert : ranked.of(t)) experts_[size++] = expert;
      }
    }
    stretches_.push_back({is_prompt, before, size});
  }
  experts_.resize(size);
  if (size >= OptimalStack::kNever) throw std::runtime_error("expert_cache: a sample has over 2^31 accesses");
  find_next_uses();
}

void CacheAccesses::find_next_uses() {
  std::fill(first_use_.begin(), first_use_.end(), OptimalStack::kNever);
  next_use_.resize(experts_.size());
  for (size_t place = experts_.size(); place > 0; --place) {
    uint32_t& next = first_use_[static_cast<size_t>(experts_[place - 1])];
    next_use_[place - 1] = next;
    next = static_cast<uint32_t>(place - 1);
  }
}

}  // namespace moetap::analysis::studies
