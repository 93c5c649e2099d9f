#include "analysis/numbers/token_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/vector_math.h"

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr uint64_t kHashOfBits = 13964107998830814517U;  // of the results of BitsStayAsTheyAre
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

/// The buffers of several tokens of n values each, one after the other.
std::vector<double> buffers(const std::vector<std::vector<double>>& tokens) {
  std::vector<double> all;
  for (const std::vector<double>& token : tokens) {
    const std::vector<double> padded = buffer(token);
    all.insert(all.end(), padded.begin(), padded.end());
  }
  return all;
}

template <typename Value>
std::vector<unsigned char> bits_of(const std::vector<Value>& values) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
  return {bytes, bytes + values.size() * sizeof(Value)};
}

SoftmaxTerms softmax(std::vector<double>& values, int64_t n) {
  SoftmaxTerms terms;
  token_kernels().softmax(values.data(), n, 1, &terms);
  return terms;
}

EntropyTerms entropy(std::vector<double> values, int64_t n, double limit = kInfinity) {
  EntropyTerms terms;
  token_kernels().entropy(values.data(), n, 1, limit, &terms);
  return terms;
}

/// All that the kernels give for some tokens, `count` of them at once, in the order of the tokens.
std::vector<double> measure(const TokenKernels& kernels, const std::vector<std::vector<double>>& tokens, size_t count) {
  const auto n = static_cast<int64_t>(tokens[0].size()), size = padded_size(n);
  std::vector<double> results;
  std::vector<int64_t> sums(n, 3), high(n), low(n);
  for (size_t begin = 0; begin < tokens.size(); begin += count) {
    const std::vector<std::vector<double>> group(tokens.begin() + begin, tokens.begin() + begin + count);
    std::vector<double> probabilities = buffers(group), sigmoids = buffers(group);
    SoftmaxTerms softmax[kMaxGroup];
    EntropyTerms entropy[kMaxGroup];
    kernels.softmax(probabilities.data(), n, count, softmax);
    kernels.add_fixed_point(probabilities.data(), n, count, sums.data());
    for (size_t i = 0; i < count; ++i) kernels.sigmoid(sigmoids.data() + i * size, n);
    kernels.entropy(sigmoids.data(), n, count, kInfinity, entropy);
    for (size_t i = 0; i < count; ++i) {
      std::vector<double> logits = buffer(group[i]);
      kernels.to_limbs(logits.data(), n, high.data(), low.data());
      results.insert(results.end(), {softmax[i].entropy, softmax[i].log_sum_exp, double(softmax[i].largest),
                                     double(kernels.largest(logits.data(), n)), entropy[i].entropy});
      results.insert(results.end(), probabilities.begin() + i * size, probabilities.begin() + i * size + n);
      results.insert(results.end(), high.begin(), high.end());
      results.insert(results.end(), low.begin(), low.end());
    }
  }
  results.insert(results.end(), sums.begin(), sums.end());
  return results;
}

TEST(TokenKernelsTest, EveryInstructionSetGivesTheSameBitsForAnyNumberOfTokensAtOnce) {
  const TokenKernelChoices choices = available_token_kernels();
  std::mt19937 random(3);
  for (const int64_t n : {1, 2, 7, 8, 9, 31, 64, 127, 1000}) {
    std::vector<std::vector<double>> tokens;
    for (int64_t token = 0; token < 12; ++token) tokens.push_back(random_values(n, random, 4));
    const std::vector<double> baseline = measure(choices.items[0].kernels, tokens, 1);
    for (int64_t i = 0; i < choices.size; ++i) {
      SCOPED_TRACE(choices.items[i].instruction_set);
      for (const size_t count : {1, 2, 3, 4}) {
        EXPECT_TRUE(bits_of(measure(choices.items[i].kernels, tokens, count)) == bits_of(baseline))
            << n << " " << count;
      }
    }
  }
}

// Bits of sums are kept in files: a change of the formulas shows here.
TEST(TokenKernelsTest, BitsStayAsTheyAre) {
  std::mt19937_64 random(9);
  uint64_t hash = 14695981039346656037U;
  for (const int64_t n : {1, 5, 8, 64, 200}) {
    std::vector<std::vector<double>> tokens(12, std::vector<double>(n));
    for (std::vector<double>& token : tokens) {
      for (double& value : token) value = static_cast<double>(random() % 4096) / 256 - 8;
    }
    for (const unsigned char byte : bits_of(measure(token_kernels(), tokens, 4))) {
      hash = (hash ^ byte) * 1099511628211U;
    }
  }
  EXPECT_EQ(hash, kHashOfBits);
}

TEST(TokenKernelsTest, LimbsAreThoseOfFixedPoint) {
  std::mt19937 random(6);
  std::vector<double> values = random_values(1000, random, 1);
  for (int i = 0; i < 1000; ++i) values[i] = std::ldexp(values[i], i % 80 - 50);
  for (const double x : {0.0, -0.0, 1.0, -1.0, 0.0625, -0.0625, 0x1p-41, -0x1p-41, 0x1.8p-40, 4294967295.9,
                         -4294967295.9, 5e-324, -5e-324}) {
    values.push_back(x);
  }
  const auto n = static_cast<int64_t>(values.size());
  std::vector<int64_t> high(n), low(n);
  token_kernels().to_limbs(values.data(), n, high.data(), low.data());
  for (int64_t i = 0; i < n; ++i) {
    if (!in_range(values[i])) continue;
    const FixedPoint expected = to_fixed_point(values[i]);
    EXPECT_EQ(high[i], expected.hi) << values[i];
    EXPECT_EQ(low[i], expected.lo) << values[i];
  }
}

TEST(TokenKernelsTest, WidensEveryFormat) {
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  const auto n = static_cast<int64_t>(halves.size());
  std::vector<double> widened(n);
  const auto expect = [&](int64_t i, double expected) {
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(widened[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint64_t>(widened[i]), std::bit_cast<uint64_t>(expected)) << i;
    }
  };
  const TokenKernelChoices choices = available_token_kernels();
  for (int64_t set = 0; set < choices.size; ++set) {
    SCOPED_TRACE(choices.items[set].instruction_set);
    const TokenKernels& kernels = choices.items[set].kernels;
    kernels.widen(halves.data(), RealFormat::kHalf, n, widened.data());
    for (int64_t i = 0; i < n; ++i) expect(i, c10::Half(halves[i], c10::Half::from_bits()));
    kernels.widen(halves.data(), RealFormat::kBFloat16, n, widened.data());
    for (int64_t i = 0; i < n; ++i) expect(i, c10::BFloat16(halves[i], c10::BFloat16::from_bits()));
    const float floats[] = {1.5F, -0.0F, 1e-45F, INFINITY, 3e38F};
    kernels.widen(floats, RealFormat::kFloat, 5, widened.data());
    for (int64_t i = 0; i < 5; ++i) expect(i, floats[i]);
    const double doubles[] = {1e300, -0.0, 5e-324};
    kernels.widen(doubles, RealFormat::kDouble, 3, widened.data());
    for (int64_t i = 0; i < 3; ++i) expect(i, doubles[i]);
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
    const SoftmaxTerms terms = softmax(values, n);
    ASSERT_TRUE(terms.in_range);
    EXPECT_NEAR(terms.log_sum_exp, std::log(sum), 1e-13);
    EXPECT_NEAR(terms.entropy, n == 1 ? 0 : entropy, 1e-13);
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(values[i], std::exp(logits[i]) / sum, 1e-15);
  }
}

TEST(TokenKernelsTest, SoftmaxOfMaskedAndUnfitLogits) {
  std::vector<double> values = buffer({-kInfinity, 1.0, -kInfinity, 1.0});
  const SoftmaxTerms terms = softmax(values, 4);
  EXPECT_TRUE(terms.in_range);
  EXPECT_EQ(values[0], 0.0);
  EXPECT_EQ(values[1], 0.5);
  EXPECT_EQ(terms.largest, 1);
  for (const std::vector<double>& unfit : std::vector<std::vector<double>>{
           {1, kNaN, 2}, {kInfinity, 0, 0}, {-kInfinity, -kInfinity, -kInfinity}, {kNaN, kNaN, kNaN}}) {
    values = buffer(unfit);
    EXPECT_FALSE(softmax(values, 3).in_range);
  }
}

TEST(TokenKernelsTest, EntropyOfUnnormalizedValues) {
  std::vector<double> values = buffer({3, 1, 0});
  const EntropyTerms terms = entropy(values, 3);
  EXPECT_TRUE(terms.in_range);
  EXPECT_EQ(token_kernels().largest(values.data(), 3), 0);
  EXPECT_NEAR(terms.entropy, -(0.75 * std::log(0.75) + 0.25 * std::log(0.25)), 3e-9);

  values = buffer({0, 0, 0});
  EXPECT_EQ(entropy(values, 3).entropy, 0.0);
  EXPECT_TRUE(entropy(values, 3).in_range);
  values = buffer({5});
  EXPECT_EQ(entropy(values, 1).entropy, 0.0) << "not below 0";
  EXPECT_EQ(entropy(values, 0).entropy, 0.0);
  values = buffer({4e-320, 4e-320});
  EXPECT_NEAR(entropy(values, 2).entropy, std::log(2.0), 1e-8);
  for (const std::vector<double>& unfit :
       std::vector<std::vector<double>>{{1, -1}, {1, kNaN}, {kInfinity, 1}, {1e308, 1e308}}) {
    values = buffer(unfit);
    EXPECT_FALSE(entropy(values, 2).in_range);
  }
  EXPECT_TRUE(entropy(buffer({1, 2}), 2, 2).in_range);
  EXPECT_FALSE(entropy(buffer({1, 2}), 2, 1.5).in_range) << "above the limit";
}

TEST(TokenKernelsTest, LargestGoesToTheLowerIndexOnATie) {
  for (const int64_t n : {2, 8, 9, 17, 100}) {
    for (int64_t first = 0; first < n; ++first) {
      std::vector<double> values(n, -3.0);
      for (int64_t i = first; i < n; i += 3) values[i] = -1.0;
      values = buffer(values);
      EXPECT_EQ(softmax(values, n).largest, first) << n;
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
