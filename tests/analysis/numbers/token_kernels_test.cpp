#include "analysis/numbers/token_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "analysis/numbers/vector_math.h"

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Distance in units of the last place of `expected`.
double ulps(double actual, double expected) {
  return std::abs(actual - expected) / (std::nextafter(std::abs(expected), kInfinity) - std::abs(expected));
}

/// A buffer as the kernels want it.
std::vector<double> buffer(const std::vector<double>& values) {
  std::vector<double> padded = values;
  padded.resize(padded_size(static_cast<int64_t>(values.size())), 77.0);
  return padded;
}

std::vector<double> random_values(int64_t n, std::mt19937& random, double scale) {
  std::normal_distribution<double> normal(0, scale);
  std::vector<double> values(n);
  for (double& value : values) value = normal(random);
  return values;
}

TEST(VectorMathTest, ExpIsGoodToTwoUlp) {
  EXPECT_EQ(exp_nonpositive(0.0), 1.0);
  EXPECT_EQ(exp_nonpositive(-kInfinity), 0.0);
  EXPECT_EQ(exp_nonpositive(-709.0), 0.0);
  EXPECT_TRUE(std::isnan(exp_nonpositive(kNaN)));
  for (double x = -707; x < 0; x += 0.00731) ASSERT_LE(ulps(exp_nonpositive(x), std::exp(x)), 2) << x;
  for (double x = -1e-20; x > -1; x *= 1.37) ASSERT_LE(ulps(exp_nonpositive(x), std::exp(x)), 2) << x;
}

TEST(VectorMathTest, LogIsGoodToTwoUlp) {
  EXPECT_EQ(log_positive(1.0), 0.0);
  for (double x = 1e-300; x < 1e300; x *= 1.0137) ASSERT_LE(ulps(log_positive(x), std::log(x)), 2) << x;
  for (double x = 0.5; x < 2; x += 0.000137) ASSERT_LE(ulps(log_positive(x), std::log(x)), 2) << x;
  for (double d = 1e-12; d < 0.1; d *= 3) ASSERT_LE(ulps(log_positive(1 + d), std::log(1 + d)), 2) << d;
}

TEST(TokenKernelsTest, EveryInstructionSetGivesTheSameBits) {
  const TokenKernelChoices choices = available_token_kernels();
  std::mt19937 random(3);
  for (const int64_t n : {1, 2, 7, 8, 9, 31, 64, 127, 1000}) {
    const std::vector<double> logits = random_values(n, random, 4);
    std::vector<double> baseline = buffer(logits);
    std::vector<int64_t> baseline_sums(n, 3);
    const SoftmaxTerms expected = choices.items[0].kernels.softmax(baseline.data(), n);
    choices.items[0].kernels.add_fixed_point(baseline.data(), n, baseline_sums.data());
    std::vector<double> sigmoids = buffer(logits);
    choices.items[0].kernels.sigmoid(sigmoids.data(), n);
    const EntropyTerms expected_entropy = choices.items[0].kernels.entropy(sigmoids.data(), n);
    for (int64_t i = 1; i < choices.size; ++i) {
      SCOPED_TRACE(choices.items[i].instruction_set);
      const TokenKernels& kernels = choices.items[i].kernels;
      std::vector<double> values = buffer(logits);
      std::vector<int64_t> sums(n, 3);
      const SoftmaxTerms terms = kernels.softmax(values.data(), n);
      kernels.add_fixed_point(values.data(), n, sums.data());
      EXPECT_EQ(std::memcmp(&terms.entropy, &expected.entropy, sizeof(double)), 0);
      EXPECT_EQ(std::memcmp(&terms.log_sum_exp, &expected.log_sum_exp, sizeof(double)), 0);
      EXPECT_EQ(terms.largest, expected.largest);
      EXPECT_EQ(std::memcmp(values.data(), baseline.data(), n * sizeof(double)), 0);
      EXPECT_EQ(sums, baseline_sums);
      values = buffer(logits);
      kernels.sigmoid(values.data(), n);
      EXPECT_EQ(kernels.entropy(values.data(), n).entropy, expected_entropy.entropy);
    }
  }
}

TEST(TokenKernelsTest, SoftmaxAgreesWithTheFormula) {
  std::mt19937 random(4);
  for (const int64_t n : {1, 3, 8, 60, 256}) {
    const std::vector<double> logits = random_values(n, random, 5);
    double sum = 0, entropy = 0;
    for (const double x : logits) sum += std::exp(x);
    for (const double x : logits) entropy -= std::exp(x) / sum * std::log(std::exp(x) / sum + 1e-9);
    std::vector<double> values = buffer(logits);
    const SoftmaxTerms terms = token_kernels().softmax(values.data(), n);
    ASSERT_TRUE(terms.in_range);
    EXPECT_NEAR(terms.log_sum_exp, std::log(sum), 1e-13);
    EXPECT_NEAR(terms.entropy, n == 1 ? 0 : entropy, 1e-13);
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(values[i], std::exp(logits[i]) / sum, 1e-15);
  }
}

TEST(TokenKernelsTest, SoftmaxOfMaskedAndUnfitLogits) {
  std::vector<double> values = buffer({-kInfinity, 1.0, -kInfinity, 1.0});
  const SoftmaxTerms terms = token_kernels().softmax(values.data(), 4);
  EXPECT_TRUE(terms.in_range);
  EXPECT_EQ(values[0], 0.0);
  EXPECT_EQ(values[1], 0.5);
  EXPECT_EQ(terms.largest, 1);
  for (const std::vector<double>& unfit : std::vector<std::vector<double>>{
           {1, kNaN, 2}, {kInfinity, 0, 0}, {-kInfinity, -kInfinity, -kInfinity}, {kNaN, kNaN, kNaN}}) {
    values = buffer(unfit);
    EXPECT_FALSE(token_kernels().softmax(values.data(), 3).in_range);
  }
}

TEST(TokenKernelsTest, EntropyOfUnnormalizedValues) {
  std::vector<double> values = buffer({3, 1, 0});
  const EntropyTerms terms = token_kernels().entropy(values.data(), 3);
  EXPECT_TRUE(terms.in_range);
  EXPECT_EQ(terms.largest, 0);
  EXPECT_NEAR(terms.entropy, -(0.75 * std::log(0.75) + 0.25 * std::log(0.25)), 3e-9);

  values = buffer({0, 0, 0});
  EXPECT_EQ(token_kernels().entropy(values.data(), 3).entropy, 0.0);
  EXPECT_TRUE(token_kernels().entropy(values.data(), 3).in_range);
  values = buffer({5});
  EXPECT_EQ(token_kernels().entropy(values.data(), 1).entropy, 0.0) << "not below 0";
  EXPECT_EQ(token_kernels().entropy(values.data(), 0).entropy, 0.0);
  values = buffer({4e-320, 4e-320});
  EXPECT_NEAR(token_kernels().entropy(values.data(), 2).entropy, std::log(2.0), 1e-8);
  for (const std::vector<double>& unfit :
       std::vector<std::vector<double>>{{1, -1}, {1, kNaN}, {kInfinity, 1}, {1e308, 1e308}}) {
    values = buffer(unfit);
    EXPECT_FALSE(token_kernels().entropy(values.data(), 2).in_range);
  }
}

TEST(TokenKernelsTest, LargestGoesToTheLowerIndexOnATie) {
  for (const int64_t n : {2, 8, 9, 17, 100}) {
    for (int64_t first = 0; first < n; ++first) {
      std::vector<double> values(n, -3.0);
      for (int64_t i = first; i < n; i += 3) values[i] = -1.0;
      values = buffer(values);
      EXPECT_EQ(token_kernels().softmax(values.data(), n).largest, first) << n;
    }
  }
}

TEST(TokenKernelsTest, SigmoidIsStableAtBothEnds) {
  std::vector<double> values = buffer({0, 1, -1, 800, -800, kNaN, kInfinity, -kInfinity});
  token_kernels().sigmoid(values.data(), 8);
  EXPECT_EQ(values[0], 0.5);
  EXPECT_NEAR(values[1], 1 / (1 + std::exp(-1.0)), 1e-16);
  EXPECT_NEAR(values[2], 1 / (1 + std::exp(1.0)), 1e-16);
  EXPECT_EQ(values[3], 1.0);
  EXPECT_EQ(values[4], 0.0);
  EXPECT_TRUE(std::isnan(values[5]));
  EXPECT_EQ(values[6], 1.0);
  EXPECT_EQ(values[7], 0.0);
}

}  // namespace
}  // namespace moetap::analysis
