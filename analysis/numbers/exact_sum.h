#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moetap::analysis {

// Note [Exact sums of studies]
// A term x is rounded once, to q = x * 2^72 (to the nearest integer, ties to even), and is an integer from there on:
// the order and grouping of additions do not change a sum. |x| < 2^26 is in range; any other x (infinities and NaN too)
// is counted and not added. A total of 127 bits holds 2^29 of the largest terms, and 2^55 of terms of size 1.
//
// The two halves of q are found without a branch and without 128-bit arithmetic, so a compiler can vectorise loops over
// ExactLimbs: adding 1.5 * 2^(52 - b) to x leaves x, rounded to multiples of 2^-b, in the low bits of the mantissa.
// What remains after b = 22 is exact and below 2^-22, so that b = 72 takes all of it. Compile without contraction
// (-ffp-contract=off): a fused multiplication before the addition would be another rounding.
__extension__ using Int128 = __int128;

inline constexpr int kExactFractionBits = 72;
inline constexpr double kExactTermLimit = 0x1p26;   // |x| at or beyond it is out of range
inline constexpr int64_t kMaxExactTerms = 1 << 13;  // that ExactLimbs holds between two calls of `take`

inline bool is_exact_term(double x) {
  return std::abs(x) < kExactTermLimit;  // false for NaN
}

/// A sum in two 64-bit limbs of 2^-22 and 2^-72, for hot loops: at most kMaxExactTerms terms, each of them in range
/// (the caller has checked). 16 bytes; plain data. `ExactSum::take` adds it to a sum.
struct ExactLimbs {
  int64_t high = 0;
  int64_t low = 0;

  void add(double x) {
    constexpr double kHigh = 0x1.8p30, kLow = 0x1.8p-20;  // 1.5 * 2^(52 - 22), 1.5 * 2^(52 - 72)
    const double rounded = x + kHigh;
    const double rest = x - (rounded - kHigh);
    high += std::bit_cast<int64_t>(rounded) - std::bit_cast<int64_t>(kHigh);
    low += std::bit_cast<int64_t>(rest + kLow) - std::bit_cast<int64_t>(kLow);
  }
};

/// An exact sum of doubles: the same bits in any order of `add` and `merge`. See the note. Not thread-safe.
class ExactSum {
 public:
  void add(double x) {
    if (!is_exact_term(x)) {
      ++out_of_range_;
      return;
    }
    ExactLimbs limbs;
    limbs.add(x);
    take(limbs);
  }
  void take(const ExactLimbs& limbs) {
    total_ += static_cast<Int128>(limbs.high) * (Int128{1} << (kExactFractionBits - 22)) + limbs.low;
  }
  void merge(const ExactSum& other) {
    total_ += other.total_;
    out_of_range_ += other.out_of_range_;
  }

  /// The sum as the nearest double. Terms out of range are missing from it.
  double value() const { return std::ldexp(static_cast<double>(total_), -kExactFractionBits); }
  int64_t out_of_range() const { return out_of_range_; }
  bool is_zero() const { return total_ == 0; }

  /// The words of a saved sum: total (low, high), terms out of range.
  struct Words {
    uint64_t low = 0;
    int64_t high = 0;
    int64_t out_of_range = 0;
  };
  Words words() const { return {static_cast<uint64_t>(total_), static_cast<int64_t>(total_ >> 64), out_of_range_}; }
  static ExactSum from_words(const Words& words) {
    ExactSum sum;
    sum.total_ = static_cast<Int128>(words.high) * (Int128{1} << 64) + static_cast<Int128>(words.low);
    sum.out_of_range_ = words.out_of_range;
    return sum;
  }

  friend bool operator==(const ExactSum&, const ExactSum&) = default;

 private:
  Int128 total_ = 0;
  int64_t out_of_range_ = 0;
};

}  // namespace moetap::analysis
