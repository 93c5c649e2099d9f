#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "analysis/numbers/host_device.h"

namespace moetap::analysis {

// Note [Exact sums]
// Every real term x of a token is computed in floating point and rounded to fixed point, q = round(x * 2^40). From
// there on it is an integer, so the order and grouping of additions do not change a sum. |x| < 2^32 is in range; any
// other x (infinities and NaN too) is counted as out of range and not added.
//
// |q| <= 2^72 does not fit 64 bits, so a sum is two 64-bit limbs that are added separately, without carries:
//   q = hi * 2^36 + lo,  0 <= lo < 2^36,  -2^36 <= hi <= 2^36
// Headroom: |sum of hi| <= T * 2^36 and sum of lo < T * 2^36, so the limbs of any T <= 2^26 terms (kMaxTermsPerCall)
// stay below 2^62. A call with more tokens is refused. Where sums of calls are merged, on the host, the carry of lo
// moves to hi and the addition of hi is checked: lo stays below 2^37, and a sum beyond 2^63 / 16 = 5.7e17 is an error
// instead of wrapping around. After the carry the limbs of a total are unique, so equal totals have equal bits.
inline constexpr int kFractionBits = 40;
inline constexpr int kLimbBits = 36;
// Probabilities are small: those of so many tokens, of at most 2^41 units each, may be added to a low limb without
// being split.
inline constexpr int64_t kMaxTokensInBlock = int64_t{1} << 20;
inline constexpr int64_t kLimbMask = (int64_t{1} << kLimbBits) - 1;
inline constexpr int64_t kMaxTermsPerCall = int64_t{1} << 26;
inline constexpr double kTermLimit = 0x1p32;        // |x| at or beyond it is out of range
inline constexpr double kFixedPointScale = 0x1p40;  // units in 1
inline constexpr double kUnitsPerHigh = 0x1p4;      // high limbs in 1: 2^(kFractionBits - kLimbBits) each
inline constexpr double kMaxProbability = 2;        // a larger one (or a negative one) is out of range
static_assert(kFractionBits - kLimbBits == 4, "kUnitsPerHigh holds 2^(kFractionBits - kLimbBits)");

struct FixedPoint {
  int64_t hi = 0;
  int64_t lo = 0;
};

/// True if x can be added to a sum; false for NaN.
MOETAP_HOST_DEVICE constexpr bool in_range(double x) {
  return x > -kTermLimit && x < kTermLimit;
}

/// x rounded to fixed point, ties to even. `x` must be in range.
MOETAP_HOST_DEVICE inline FixedPoint to_fixed_point(double x) {
  // x - hi / 16 lies in [0, 1/16]. It is exact for x >= 0; for x < 0 it may be rounded at 2^-57, far below the last bit
  // kept.
  const double hi = std::floor(x * kUnitsPerHigh);
  const double rest = (x - hi / kUnitsPerHigh) * kFixedPointScale;  // [0, 2^36)
  // Adding 1.5 * 2^52 leaves the rounded integer in the low bits of the mantissa; unlike lrint it needs no
  // rounding-mode call.
  const int64_t lo = std::bit_cast<int64_t>(rest + 0x1.8p52) - std::bit_cast<int64_t>(0x1.8p52);
  return FixedPoint{static_cast<int64_t>(hi), lo};  // lo may be 2^36 after rounding: the sum is the same
}

/// Moves the carry of `lo` to `hi`. Returns false, and changes nothing, if `hi` would overflow.
inline bool normalize(FixedPoint& sum) {
  int64_t hi = 0;
  // An arithmetic shift rounds down, which is what the carry of a negative lo needs.
  if (__builtin_add_overflow(sum.hi, sum.lo >> kLimbBits, &hi)) return false;
  sum = FixedPoint{hi, sum.lo & kLimbMask};
  return true;
}

/// The sum as the nearest double.
inline double to_double(const FixedPoint& sum) {
  __extension__ using Int128 = __int128;
  const Int128 total = static_cast<Int128>(sum.hi) * (Int128{1} << kLimbBits) + sum.lo;
  return std::ldexp(static_cast<double>(total), -kFractionBits);
}

}  // namespace moetap::analysis
