#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "analysis/studies/partial_bytes.h"
#include "analysis/studies/table.h"

namespace moetap::analysis::studies {

/// The value below which a share of the values lies, interpolated linearly between the two nearest: place
/// share * (n − 1) of the sorted values. kUndefined if there are none. `sorted` must be ascending.
inline double percentile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return kUndefined;
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

/// Values of a partial that are to be sorted. Throws std::runtime_error if one is not finite.
inline std::vector<double> finite_values(ByteSource& source) {
  std::vector<double> values = source.values<double>();
  if (!std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); }))
    ByteSource::refuse();
  return values;
}

}  // namespace moetap::analysis::studies
