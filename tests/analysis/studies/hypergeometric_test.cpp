#include "analysis/studies/hypergeometric.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moetap::analysis::studies {
namespace {

/// C(n, k) as a long double; exact enough for n up to some hundreds.
long double choose(int64_t n, int64_t k) {
  if (k < 0 || k > n) return 0;
  long double value = 1;
  for (int64_t i = 1; i <= k; ++i) value = value * static_cast<long double>(n - k + i) / static_cast<long double>(i);
  return value;
}

long double probability(const Hypergeometric& of, int64_t count) {
  return choose(of.marked, count) * choose(of.population - of.marked, of.drawn - count) /
         choose(of.population, of.drawn);
}

TEST(Hypergeometric, AgreesWithBinomials) {
  for (const Hypergeometric of : {Hypergeometric{10, 4, 3},
                                  {60, 20, 17},
                                  {200, 7, 150},
                                  {200, 190, 60},
                                  {50, 50, 9},
                                  {50, 0, 9},
                                  {30, 12, 30},
                                  {30, 12, 0},
                                  {1000, 300, 40}}) {
    long double upper = 0;
    for (int64_t count = std::min(of.marked, of.drawn); count >= 0; --count) {
      const long double exact = probability(of, count);
      upper += exact;
      if (exact == 0) {
        EXPECT_EQ(log_probability(of, count), -HUGE_VAL);
      } else {
        EXPECT_NEAR(log_probability(of, count), static_cast<double>(std::log(exact)), 1e-11);
      }
      if (upper == 0) continue;
      // What is compared is p, so near 1 its logarithm may be off by some 1e-12.
      EXPECT_NEAR(std::exp(log_upper_tail(of, count)) / static_cast<double>(upper), 1, 1e-11)
          << of.population << ' ' << of.marked << ' ' << of.drawn << ' ' << count;
    }
  }
}

TEST(Hypergeometric, BeyondTheLargestCountIsImpossible) {
  EXPECT_EQ(log_upper_tail({10, 4, 3}, 4), -HUGE_VAL);
  EXPECT_EQ(log_upper_tail({10, 4, 3}, 0), 0);
  EXPECT_EQ(log_upper_tail({10, 8, 5}, 3), 0);  // at least three of five are marked
}

TEST(Hypergeometric, IsKnownWhereAProbabilityUnderflows) {
  // All of 2000 drawn tokens are among 2000 marked ones of 4000: P = 1 / C(4000, 2000), by Stirling's series.
  const double n = 2000;
  const double log_binomial = 2 * n * std::log(2) - 0.5 * std::log(M_PI * n) - 1 / (8 * n) + 1 / (192 * n * n * n);
  EXPECT_NEAR(log_upper_tail({4000, 2000, 2000}, 2000), -log_binomial, 1e-9);
}

TEST(AdjustLogPValues, FollowsBenjaminiAndHochberg) {
  // p = 0.01, 0.04, 0.03, 0.5 -> 0.04, 0.04 * 4 / 3, 0.04 * 4 / 3 (the smaller of 0.06 and that), 0.5
  std::vector<double> log_p;
  for (const double p : {0.01, 0.04, 0.03, 0.5}) log_p.push_back(std::log(p));
  const std::vector<double> adjusted = adjust_log_p_values(log_p);
  const std::vector<double> expected = {0.04, 0.16 / 3, 0.16 / 3, 0.5};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(std::exp(adjusted[i]), expected[i], 1e-12);
  EXPECT_TRUE(adjust_log_p_values({}).empty());
}

}  // namespace
}  // namespace moetap::analysis::studies
