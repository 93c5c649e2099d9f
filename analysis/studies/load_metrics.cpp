#include "analysis/studies/load_metrics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "analysis/studies/expert_counts.h"

namespace moetap::analysis::studies {

LoadMetrics load_metrics(std::span<const int64_t> counts) {
  LoadMetrics metrics;
  std::vector<int64_t> ascending(counts.begin(), counts.end());
  std::sort(ascending.begin(), ascending.end());
  const auto num_experts = static_cast<double>(counts.size());
  double total = 0, squares = 0, weighted = 0;
  for (size_t i = 0; i < ascending.size(); ++i) {
    const auto count = static_cast<double>(ascending[i]);
    total += count;
    squares += count * count;
    weighted += (2 * static_cast<double>(i + 1) - num_experts - 1) * count;
  }
  const double mean = counts.empty() ? 0 : total / num_experts;
  double deviations = 0;
  for (const int64_t count : ascending) {
    deviations += (static_cast<double>(count) - mean) * (static_cast<double>(count) - mean);
    metrics.active_experts += count > 0;
    metrics.underused_experts += static_cast<double>(count) < mean / 2;
  }
  metrics.dead_experts = static_cast<int64_t>(counts.size()) - metrics.active_experts;
  metrics.load_cv = mean == 0 || counts.size() == 1 ? 0 : std::sqrt(deviations / (num_experts - 1)) / mean;
  metrics.max_violation = max_over_mean(counts) - 1;
  metrics.gini = total == 0 ? kUndefined : weighted / (num_experts * total);
  metrics.jain = total == 0 ? kUndefined : total * total / (num_experts * squares);
  return metrics;
}

}  // namespace moetap::analysis::studies
