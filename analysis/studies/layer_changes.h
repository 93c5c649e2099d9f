#pragma once

#include <cstddef>
#include <vector>

namespace moetap::analysis::studies {

/// Sum of absolute differences of two layers' shares, in [0, 2]; kUndefined if they have different numbers of experts.
double share_change(const std::vector<double>& from, const std::vector<double>& to);

}  // namespace moetap::analysis::studies
