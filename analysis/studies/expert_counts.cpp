#include "analysis/studies/expert_counts.h"

#include <algorithm>
#include <numeric>

namespace moetap::analysis::studies {

std::vector<int32_t> experts_by_count(std::span<const int64_t> counts) {
  std::vector<int32_t> experts(counts.size());
  std::iota(experts.begin(), experts.end(), 0);
  std::stable_sort(experts.begin(), experts.end(), [&](int32_t a, int32_t b) {
    return counts[static_cast<size_t>(a)] > counts[static_cast<size_t>(b)];
  });
  return experts;
}

}  // namespace moetap::analysis::studies
