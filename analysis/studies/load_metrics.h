#pragma once

#include <cstdint>
#include <span>

namespace moetap::analysis::studies {

/// What metrics.md defines of the counts c [E] of a layer's experts. kUndefined where c is 0 and the formula divides by
/// it; load_cv is 0 there.
struct LoadMetrics {
  double load_cv = 0;        // std(c, ddof = 1) / mean(c); 0 for one expert
  double max_violation = 0;  // max(c) / mean(c) − 1
  double gini = 0;
  double jain = 0;                                                      // (sum c)² / (E sum c²)
  int64_t active_experts = 0, dead_experts = 0, underused_experts = 0;  // c > 0; c = 0; c < mean(c) / 2
};
LoadMetrics load_metrics(std::span<const int64_t> counts);

}  // namespace moetap::analysis::studies
