#pragma once

#include <bit>
#include <cstdint>

#include "analysis/numbers/host_device.h"

namespace moetap::analysis {

// Note [Own exp and log]
// The compiler vectorises loops over these functions for any instruction set, and the bits are the same on all: they
// use only additions, multiplications, divisions and bit operations, no branches, and are compiled without contraction
// to fused multiply-adds. LibTorch's vectorised operations are no choice: they compute the last elements of a tensor by
// another routine, so the bits of a token would depend on its place in the batch. Both functions are good to 2 ulp.

/// e^x for x <= 0; 0 below -708; NaN for NaN.
MOETAP_HOST_DEVICE inline __attribute__((always_inline)) double exp_nonpositive(double x) {
  const double clamped = x < -708.0 ? -708.0 : x;
  // x = n ln 2 + r, |r| <= ln(2) / 2; adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
  const double shifted = clamped * 0x1.71547652b82fep0 + 0x1.8p52;
  const double n = shifted - 0x1.8p52;
  const double r = (clamped - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  // Taylor series: the first term left out is below 2^-57.
  double series = 1.0 / 6227020800.0;
  series = series * r + 1.0 / 479001600.0;
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
  const double power_of_two = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  const double result = series * power_of_two;
  return x < -708.0 ? 0.0 : result;
}

/// ln x for normal x > 0, below infinity.
MOETAP_HOST_DEVICE inline __attribute__((always_inline)) double log_positive(double x) {
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)), so that ln m keeps its relative accuracy around x = 1.
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  constexpr uint64_t kBias = uint64_t{1023} << 52;
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const uint64_t biased = (bits - kSqrtHalf + kBias) >> 52;  // k + 1023
  const double m = std::bit_cast<double>(bits - (biased << 52) + kBias);
  const double k = std::bit_cast<double>(biased + std::bit_cast<uint64_t>(0x1.8p52)) - 0x1.8p52 - 1023.0;
  // ln m = 2 atanh(f); f^2 <= 0.0295, the first term left out is below 2^-57.
  const double f = (m - 1.0) / (m + 1.0);
  const double s = f * f;
  double series = 1.0 / 21.0;
  series = series * s + 1.0 / 19.0;
  series = series * s + 1.0 / 17.0;
  series = series * s + 1.0 / 15.0;
  series = series * s + 1.0 / 13.0;
  series = series * s + 1.0 / 11.0;
  series = series * s + 1.0 / 9.0;
  series = series * s + 1.0 / 7.0;
  series = series * s + 1.0 / 5.0;
  series = series * s + 1.0 / 3.0;
  return k * 0x1.62e42fefa39efp-1 + (2.0 * f + 2.0 * f * s * series);
}

}  // namespace moetap::analysis
