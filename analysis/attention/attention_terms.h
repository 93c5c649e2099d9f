#pragma once

#include <cstdint>

#include "analysis/attention/attention_columns.h"
#include "analysis/numbers/host_device.h"

// The terms of a row that are no column of it; loops and kernels take them from here, so that they add the same bits.
namespace moetap::analysis {

/// Of each region of the plane the observed mass, then the expected one of each.
inline constexpr int32_t kNumPlaneTerms = 2 * kNumPlaneRegions;

/// A row as AttentionRows has it.
struct AttentionRowValues {
  const float* values = nullptr;  // [num_attention_columns(R)]
  const float* bins = nullptr;    // [kNumAttentionBins]
  int32_t position = 0, num_keys = 0, length = 0;

  MOETAP_HOST_DEVICE double plane_term(int32_t term) const {
    const bool expected = term >= kNumPlaneRegions;
    const int32_t region = expected ? term - static_cast<int32_t>(kNumPlaneRegions) : term;
    if (region == kDiagonalRegion) return values[expected ? kDiagonalExpected : kDiagonal];
    if (region == kFarRegion) return values[expected ? kFarExpected : kFar];
    const bool of_first_queries = region == kNTerminal || region == kNToC;
    if (of_first_queries ? position >= length / 4 : position < int64_t{3} * length / 4) return 0;
    const bool to_first_keys = region == kNTerminal || region == kCToN;
    if (!expected) return bins[to_first_keys ? kFirstQuarter : kLastQuarter];
    const int64_t n = num_keys, count = to_first_keys ? n / 4 : n - 3 * n / 4;
    return static_cast<double>(count) / static_cast<double>(n);
  }

  /// floor(16 i / length).
  MOETAP_HOST_DEVICE int32_t query_bin() const {
    const int64_t bin = kPatternBins * position / (length > 1 ? length : 1);
    return static_cast<int32_t>(bin < kPatternBins - 1 ? bin : kPatternBins - 1);
  }
};

}  // namespace moetap::analysis
