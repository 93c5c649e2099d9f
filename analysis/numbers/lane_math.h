#pragma once

#include "analysis/numbers/lanes.h"

// exp and log of the loops over lanes: see Note [Own exp and log]. They are coarser than those of vector_math.h, since
// a term of a sum is rounded to 2^-40 = 9e-13, and fused, which needs half as many instructions.
namespace moetap::analysis {
namespace {

constexpr double kRounder = 0x1.8p52;       // adding it rounds to an integer, which is left in the low bits
constexpr double kSmallestExponent = -700;  // of exp_nonpositive_coarse

/// e^x for kSmallestExponent <= x <= 0, to 1e-12; NaN for NaN. 1 for 0.
template <typename Group>
MOETAP_ALWAYS_INLINE Group exp_nonpositive_coarse(const Group& x) {
  // x = n ln 2 + r, |r| <= ln(2) / 2
  const Group shifted = fused(x, Group(0x1.71547652b82fep0), Group(kRounder));
  const Group r = fused(shifted - kRounder, Group(-0x1.62e42fefa39efp-1), x);
  // The polynomial 1 + r q(r) that is nearest to e^r by relative distance, which is below 9e-13.
  Group series = fused(r, Group(2.473291679295499e-05), Group(0.00019914739103539704));
  series = fused(series, r, Group(0.0013889155481880036));
  series = fused(series, r, Group(0.008333268652267222));
  series = fused(series, r, Group(0.041666664530974694));
  series = fused(series, r, Group(0.16666666873825534));
  series = fused(series, r, Group(0.5000000000459861));
  series = fused(series, r, Group(0.9999999999830061));
  series = fused(series, r, Group(1.0));
  return from_bits(to_bits(series) + (to_bits(shifted) << 52));
}

/// ln x for normal x > 0, below infinity, to 1e-13.
template <typename Group>
MOETAP_ALWAYS_INLINE Group log_positive_coarse(const Group& x) {
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)), so that ln m keeps its relative accuracy around x = 1.
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  constexpr uint64_t kBias = uint64_t{1023} << 52;
  const auto bits = to_bits(x);
  const auto biased = (bits + (kBias - kSqrtHalf)) >> 52;  // k + 1023
  const Group m = from_bits(bits - (biased << 52) + kBias);
  const Group k = from_bits(biased + kRounderBits) - (kRounder + 1023.0);
  // ln m = 2 atanh(f); f^2 <= 0.0295, the first term left out is below 2^-44 of the sum.
  const Group f = (m - 1.0) / (m + 1.0);
  const Group s = f * f;
  Group series = fused(s, Group(2.0 / 15.0), Group(2.0 / 13.0));
  series = fused(series, s, Group(2.0 / 11.0));
  series = fused(series, s, Group(2.0 / 9.0));
  series = fused(series, s, Group(2.0 / 7.0));
  series = fused(series, s, Group(2.0 / 5.0));
  series = fused(series, s, Group(2.0 / 3.0));
  series = fused(series, s, Group(2.0));
  return fused(k, Group(0x1.62e42fefa39efp-1), series * f);
}

}  // namespace
}  // namespace moetap::analysis
