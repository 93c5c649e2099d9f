#include "analysis/numbers/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace moetap::analysis {
namespace {

std::vector<double> random_terms(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> mantissa(-1, 1);
  std::uniform_int_distribution<int> exponent(-90, 25);
  std::vector<double> terms(n);
  for (double& term : terms) term = std::ldexp(mantissa(random), exponent(random));
  return terms;
}

ExactSum sum_of(const std::vector<double>& terms) {
  ExactSum sum;
  for (const double term : terms) sum.add(term);
  return sum;
}

TEST(ExactSum, AnyOrderAndAnySplitGiveTheSameBits) {
  std::vector<double> terms = random_terms(2000, 1);
  const ExactSum whole = sum_of(terms);
  std::mt19937_64 random(2);
  for (int round = 0; round < 20; ++round) {
    std::shuffle(terms.begin(), terms.end(), random);
    const size_t cut = random() % terms.size();
    ExactSum left = sum_of({terms.begin(), terms.begin() + static_cast<std::ptrdiff_t>(cut)});
    const ExactSum right = sum_of({terms.begin() + static_cast<std::ptrdiff_t>(cut), terms.end()});
    left.merge(right);
    EXPECT_EQ(left, whole);
  }
}

TEST(ExactSum, RoundsEachTermToTheNearestUnit) {
  for (const double term : random_terms(2000, 3)) {
    const long double expected = std::nearbyintl(std::ldexp(static_cast<long double>(term), kExactFractionBits));
    ExactSum sum;
    sum.add(term);
    const ExactSum::Words words = sum.words();
    const long double found = std::ldexp(static_cast<long double>(words.high), 64) + words.low;
    // A long double holds 64 bits: exact for the terms themselves, whose rounded value has at most 53 or is below 2^64.
    EXPECT_EQ(found, expected) << term;
  }
}

TEST(ExactSum, TiesGoToTheEvenUnit) {
  const double unit = std::ldexp(1.0, -kExactFractionBits);
  for (const auto& [term, expected] : {std::pair{0.5, 0.0}, {1.5, 2.0}, {2.5, 2.0}, {-0.5, 0.0}, {-1.5, -2.0}}) {
    ExactSum sum;
    sum.add(term * unit);
    EXPECT_EQ(sum.value(), expected * unit) << term;
  }
}

TEST(ExactSum, CountsTermsOutOfRangeAndLeavesThemOut) {
  ExactSum sum;
  sum.add(1.5);
  for (const double term : {kExactTermLimit, -kExactTermLimit, std::numeric_limits<double>::infinity(),
                            std::numeric_limits<double>::quiet_NaN()}) {
    sum.add(term);
  }
  EXPECT_EQ(sum.value(), 1.5);
  EXPECT_EQ(sum.out_of_range(), 4);
  sum.add(std::nextafter(kExactTermLimit, 0));
  EXPECT_EQ(sum.out_of_range(), 4);
}

TEST(ExactSum, LimbsHoldAsManyOfTheLargestTermsAsTheyPromise) {
  const double largest = std::nextafter(kExactTermLimit, 0);
  for (const double term : {largest, -largest, std::ldexp(-1.9999999, -23), 1.0 / 3}) {
    ExactLimbs limbs;
    ExactSum one, taken;
    for (int64_t i = 0; i < kMaxExactTerms; ++i) {
      limbs.add(term);
      one.add(term);
    }
    taken.take(limbs);
    EXPECT_EQ(taken, one) << term;
  }
}

TEST(ExactSum, KeepsWhatADoubleWouldLose) {
  ExactSum sum;
  sum.add(0x1p20);
  for (int i = 0; i < 1000; ++i) sum.add(0x1p-60);
  sum.add(-0x1p20);
  EXPECT_EQ(sum.value(), std::ldexp(1000.0, -60));
}

TEST(ExactSum, WordsGiveTheSumBack) {
  for (const double term : random_terms(100, 4)) {
    ExactSum sum;
    sum.add(term);
    sum.add(std::numeric_limits<double>::infinity());
    EXPECT_EQ(ExactSum::from_words(sum.words()), sum);
  }
}

}  // namespace
}  // namespace moetap::analysis
