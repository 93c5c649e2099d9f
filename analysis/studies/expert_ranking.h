#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moetap::analysis::studies {

/// Places of `values` by descending value, ties to the lower place, NaN last.
std::vector<int64_t> ranked(std::span<const double> values);

/// `values` divided by their sum; 0 where the sum is 0.
std::vector<double> normalized(std::span<const double> values);

}  // namespace moetap::analysis::studies
