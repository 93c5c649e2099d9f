#pragma once

#include <cstdint>

#include "analysis/numbers/host_device.h"

namespace moetap::analysis {

// Note [Own exp and log]
// The bits are the same on any processor: the functions use only additions, multiplications, divisions and bit
// operations, no branches, and are compiled without contraction to fused multiply-adds. Those of the loops over experts
// on the CPU are in lane_math.h. LibTorch's vectorised operations are no choice: they compute the last elements of
// a tensor by another routine, so the bits of a token would depend on its place in the batch. Both functions are good
// to 2 ulp.

MOETAP_HOST_DEVICE inline __attribute__((always_inline)) double select(bool condition, double yes, double no) {
  return condition ? yes : no;
}
MOETAP_HOST_DEVICE inline __attribute__((always_inline)) uint64_t to_bits(double x) {
  return __builtin_bit_cast(uint64_t, x);
}
MOETAP_HOST_DEVICE inline __attribute__((always_inline)) double from_bits(uint64_t bits) {
  return __builtin_bit_cast(double, bits);
}

inline constexpr uint64_t kRounderBits = 0x4338000000000000;  // of 1.5 * 2^52: see below

/// e^x for x <= 0; 0 below -708; NaN for NaN.
template <typename Real>
MOETAP_HOST_DEVICE inline __attribute__((always_inline)) Real exp_nonpositive(const Real& x) {
  const auto is_nothing = x < -708.0;
  const Real clamped = select(is_nothing, Real(-708.0), x);
  // x = n ln 2 + r, |r| <= ln(2) / 2; adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
  const Real shifted = clamped * 0x1.71547652b82fep0 + 0x1.8p52;
  const Real n = shifted - 0x1.8p52;
  const Real r = (clamped - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  // Taylor series: the first term left out is below 2^-57.
  Real series = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  series = series * r + 1.0 / 39916800.0;
  series = series * r + 1.0 / 3628800.0;
  series = series * r + 1.0 / 362880.0;
  series = series * r + 1.0 / 40320.0;
  series = series * r + 1.0 / 5040.0;
  series = series * r + 1.0 / 720.0;
  series = series * r + 1.0 / 120.0;
  series = series * r + 1.0 / 24.0;
  series = series * r + 1.0 / 6.0;
  series = series * r + 0.5;
  series = series * r + 1.0;
  series = series * r + 1.0;
  const Real power_of_two = from_bits((to_bits(shifted) + uint64_t{1023}) << 52);
  return select(is_nothing, Real(0.0), series * power_of_two);
}

/// ln x for normal x > 0, below infinity.
template <typename Real>
MOETAP_HOST_DEVICE inline __attribute__((always_inline)) Real log_positive(const Real& x) {
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)), so that ln m keeps its relative accuracy around x = 1.
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  constexpr uint64_t kBias = uint64_t{1023} << 52;
  const auto bits = to_bits(x);
  const auto biased = (bits + (kBias - kSqrtHalf)) >> 52;  // k + 1023
  const Real m = from_bits(bits - (biased << 52) + kBias);
  const Real k = from_bits(biased + kRounderBits) - 0x1.8p52 - 1023.0;
  // ln m = 2 atanh(f); f^2 <= 0.0295, the first term left out is below 2^-57.
  const Real f = (m - 1.0) / (m + 1.0);
  const Real s = f * f;
  Real series = s * (1.0 / 21.0) + 1.0 / 19.0;
  series = series * s + 1.0 / 17.0;
  series = series * s + 1.0 / 15.0;
  series = series * s + 1.0 / 13.0;
  series = series * s + 1.0 / 11.0;
  series = series * s + 1.0 / 9.0;
  series = series * s + 1.0 / 7.0;
  series = series * s + 1.0 / 5.0;
  series = series * s + 1.0 / 3.0;
  const Real twice = f * 2.0;
  return k * 0x1.62e42fefa39efp-1 + (twice + twice * s * series);
}

}  // namespace moetap::analysis
