#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "analysis/studies/table.h"

namespace moetap::analysis::studies {

/// max / mean of counts; kUndefined without any.
inline double max_over_mean(std::span<const int64_t> counts) {
  int64_t total = 0, largest = 0;
  for (const int64_t count : counts) {
    total += count;
    if (count > largest) largest = count;
  }
  if (total == 0) return kUndefined;
  return static_cast<double>(largest) * static_cast<double>(counts.size()) / static_cast<double>(total);
}

/// The ids of the experts, those with the larger count first, ties to the lower id.
std::vector<int32_t> experts_by_count(std::span<const int64_t> counts);

/// Adds `other` to `counts`; equal sizes.
inline void add_counts(std::vector<int64_t>& counts, const std::vector<int64_t>& other) {
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += other[i];
}

}  // namespace moetap::analysis::studies
