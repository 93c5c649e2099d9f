#include "analysis/numbers/fixed_point.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace moetap::analysis {
namespace {

FixedPoint add(FixedPoint a, const FixedPoint& b) {
  return FixedPoint{a.hi + b.hi, a.lo + b.lo};
}

TEST(FixedPointTest, RoundsToUnitsOfTwoToMinusForty) {
  const double unit = 0x1p-40;
  for (const double x : {0.0, 1.0, -1.0, unit, -unit, 0.75, -123456.5, 3.0 + 5 * unit, 0x1p31, -0x1p31}) {
    EXPECT_EQ(to_double(to_fixed_point(x)), x) << x;
  }
  EXPECT_EQ(to_double(to_fixed_point(0.4 * unit)), 0.0);
  EXPECT_EQ(to_double(to_fixed_point(0.6 * unit)), unit);
  EXPECT_EQ(to_double(to_fixed_point(-0.6 * unit)), -unit);
  EXPECT_EQ(to_double(to_fixed_point(1.5 * unit)), 2 * unit) << "ties go to even";
  EXPECT_EQ(to_double(to_fixed_point(2.5 * unit)), 2 * unit) << "ties go to even";
}

TEST(FixedPointTest, KnowsItsRange) {
  EXPECT_TRUE(in_range(0x1.fffffffffffffp31));
  EXPECT_TRUE(in_range(-0x1.fffffffffffffp31));
  for (const double x : {0x1p32, -0x1p32, std::numeric_limits<double>::infinity(),
                         -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_FALSE(in_range(x)) << x;
  }
}

TEST(FixedPointTest, SumsDoNotDependOnTheOrder) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-45, 31);
  std::vector<FixedPoint> terms;
  for (int i = 0; i < 1000; ++i) terms.push_back(to_fixed_point((i % 2 ? -1 : 1) * std::exp2(exponent(random))));
  FixedPoint forward, backward, carried;
  for (size_t i = 0; i < terms.size(); ++i) {
    forward = add(forward, terms[i]);
    backward = add(backward, terms[terms.size() - 1 - i]);
    carried = add(carried, terms[i]);
    ASSERT_TRUE(normalize(carried));
  }
  ASSERT_TRUE(normalize(forward));
  ASSERT_TRUE(normalize(backward));
  EXPECT_EQ(forward.hi, backward.hi);
  EXPECT_EQ(forward.lo, backward.lo);
  EXPECT_EQ(forward.hi, carried.hi);
  EXPECT_EQ(forward.lo, carried.lo);
}

TEST(FixedPointTest, LargestTermsOfACallFitTheLimbs) {
  for (const double x : {0x1.fffffffffffffp31, -0x1.fffffffffffffp31}) {
    const FixedPoint term = to_fixed_point(x);
    FixedPoint sum;
    ASSERT_FALSE(__builtin_mul_overflow(term.hi, kMaxTermsPerCall, &sum.hi));
    ASSERT_FALSE(__builtin_mul_overflow(term.lo, kMaxTermsPerCall, &sum.lo));
    EXPECT_DOUBLE_EQ(to_double(sum), x * static_cast<double>(kMaxTermsPerCall));
  }
}

TEST(FixedPointTest, NormalizeRefusesToOverflow) {
  FixedPoint sum{std::numeric_limits<int64_t>::max(), int64_t{1} << kLimbBits};
  EXPECT_FALSE(normalize(sum));
  EXPECT_EQ(sum.hi, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(sum.lo, int64_t{1} << kLimbBits);
}

TEST(FixedPointTest, NormalizeCarriesNegativeLowLimbs) {
  FixedPoint sum{5, -1};
  const double before = to_double(sum);
  ASSERT_TRUE(normalize(sum));
  EXPECT_EQ(sum.hi, 4);
  EXPECT_EQ(sum.lo, kLimbMask);
  EXPECT_EQ(to_double(sum), before);
}

}  // namespace
}  // namespace moetap::analysis
