#pragma once

#include <cstdint>

#include "analysis/numbers/host_device.h"
#include "analysis/routers/router_sums_layout.h"

namespace moetap::analysis {

/// Words of a row in front of its vectors: counters and scalar sums.
inline constexpr int32_t kRowHeadWords = static_cast<int32_t>(kNumRowCounters + kNumScalarSums * kScalarSumWords);

/// The shared memory of a block of the router kernel: its part of the sums of the row that its first valid token is in.
///
///   warp 0: head of the row, probabilities [E] | warp 1 | ... | counts [4, E] | pairs
///
/// A warp writes its slice once, so slices need no atomic additions. Counts and pairs do; they are 32 bits wide, since
/// shared memory adds those in hardware. Pairs are kept here if there are few: then many tokens add to the same pair.
struct BlockMemoryLayout {
  static constexpr int32_t kMaxExpertsOfPairs = 64;
  static constexpr int32_t kNumCounts = 4;  // kSelected, kZeroWeight, kTopProbability, kFirstSlot: the first vectors
  static_assert(kSelected == 0 && kZeroWeight == 1 && kTopProbability == 2 && kFirstSlot == 3,
                "the counts of a block are numbered as the vectors of a row");

  int32_t num_experts = 0;
  int32_t num_warps = 0;
  bool with_pairs = false;

  MOETAP_HOST_DEVICE constexpr int32_t slice_words() const { return kRowHeadWords + num_experts; }
  MOETAP_HOST_DEVICE constexpr bool holds_pairs() const { return with_pairs && num_experts <= kMaxExpertsOfPairs; }
  MOETAP_HOST_DEVICE constexpr int32_t num_pairs() const {
    return holds_pairs() ? num_experts * (num_experts - 1) / 2 : 0;
  }
  MOETAP_HOST_DEVICE constexpr int64_t bytes() const {
    return int64_t{8} * num_warps * slice_words() + int64_t{4} * (kNumCounts * num_experts + num_pairs());
  }
};
// The shared memory that a block may have without a special launch attribute.
static_assert(BlockMemoryLayout{256, 8, true}.bytes() <= 48 << 10);
static_assert(BlockMemoryLayout{512, 4, true}.bytes() <= 48 << 10);
static_assert(BlockMemoryLayout{1024, 2, true}.bytes() <= 48 << 10);

}  // namespace moetap::analysis
