#include "analysis/studies/expert_ranking.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace moetap::analysis::studies {

std::vector<int64_t> ranked(std::span<const double> values) {
  std::vector<int64_t> places(values.size());
  std::iota(places.begin(), places.end(), int64_t{0});
  std::stable_sort(places.begin(), places.end(), [&](int64_t a, int64_t b) {
    const double x = values[static_cast<size_t>(a)], y = values[static_cast<size_t>(b)];
    if (std::isnan(x) || std::isnan(y)) return !std::isnan(x) && std::isnan(y);
    return x > y;
  });
  return places;
}

std::vector<double> normalized(std::span<const double> values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  std::vector<double> shares(values.begin(), values.end());
  for (double& share : shares) share = sum > 0 ? share / sum : 0;
  return shares;
}

}  // namespace moetap::analysis::studies
