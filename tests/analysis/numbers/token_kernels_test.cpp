#include "analysis/numbers/token_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/vector_math.h"

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr uint64_t kHashOfBits = 7630144528527253777U;  // of the results of BitsStayAsTheyAre
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

/// The softmax of one token, and in `sums` its probabilities in fixed point.
SoftmaxTerms softmax(std::vector<double> logits, int64_t n, std::vector<int64_t>& sums) {
  SoftmaxTerms terms;
  sums.assign(n, 0);
  int64_t* of_token[kMaxGroup] = {sums.data()};
  token_kernels().softmax(logits.data(), n, 1, of_token, terms);
  return terms;
}
SoftmaxTerms softmax(std::vector<double> logits, int64_t n) {
  std::vector<int64_t> sums;
  return softmax(std::move(logits), n, sums);
}

EntropyTerms entropy(std::vector<double> values, int64_t n, double limit = kInfinity) {
  EntropyTerms terms;
  token_kernels().entropy(values.data(), n, 1, limit, terms);
  return terms;
}

/// All that the kernels give for some tokens, `count` of them at once, in the order of the tokens. `rows`: the tokens
/// are added to that many sums in turn.
std::vector<double> measure(const TokenKernels& kernels, const std::vector<std::vector<double>>& tokens, size_t count,
                            size_t rows) {
  const auto n = static_cast<int64_t>(tokens[0].size()), size = padded_size(n);
  std::vector<double> results;
  std::vector<int64_t> sums(n * (rows + 1), 3), high(n), low(n), units(n * kMaxGroup);
  for (size_t begin = 0; begin < tokens.size(); begin += count) {
    const size_t end = std::min(tokens.size(), begin + count), of_group = end - begin;
    const std::vector<std::vector<double>> group(tokens.begin() + begin, tokens.begin() + end);
    std::vector<double> logits = buffers(group), sigmoids = buffers(group);
    std::vector<double> slots(n * kMaxGroup), experts(n * kMaxGroup, kInfinity);
    SoftmaxTerms softmax;
    EntropyTerms entropy;
    RankTerms ranks;
    int64_t* of_tokens[kMaxGroup] = {};
    for (size_t i = 0; i < of_group; ++i) of_tokens[i] = sums.data() + (begin + i) * rows / tokens.size() * n;
    kernels.softmax(logits.data(), n, of_group, of_tokens, softmax);
    for (size_t i = 0; i < of_group; ++i) kernels.sigmoid(sigmoids.data() + i * size, n);
    kernels.entropy(sigmoids.data(), n, of_group, kInfinity, entropy);
    kernels.add_fixed_point(sigmoids.data(), n, of_group, sums.data() + rows * n);
    for (size_t i = 0; i < of_group; ++i) {
      for (int64_t slot = 0; slot < n; ++slot) {
        slots[slot * kMaxGroup + i] = sigmoids[i * size + slot];
        experts[slot * kMaxGroup + i] = static_cast<double>(n - slot);
      }
    }
    kernels.rank(slots.data(), experts.data(), n, units.data(), ranks);
    for (size_t i = 0; i < of_group; ++i) {
      std::vector<double> values = buffer(group[i]);
      kernels.to_limbs(values.data(), n, high.data(), low.data());
      results.insert(results.end(),
                     {softmax.entropy[i], softmax.log_sum_exp[i], double(softmax.largest[i]), entropy.entropy[i],
                      double(kernels.largest(values.data(), n)), ranks.first[i], ranks.largest[i], ranks.second[i],
                      ranks.entropies.entropy[i], double(softmax.in_range[i] + entropy.in_range[i])});
      for (int64_t slot = 0; slot < n; ++slot) results.push_back(double(units[slot * kMaxGroup + i]));
      results.insert(results.end(), sigmoids.begin() + i * size, sigmoids.begin() + i * size + n);
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
    for (int64_t token = 0; token < 25; ++token) tokens.push_back(random_values(n, random, token % 5 * 3 + 1));
    for (const size_t rows : {1, 4, 25}) {
      const std::vector<double> baseline = measure(choices.items[0].kernels, tokens, 1, rows);
      for (int64_t i = 0; i < choices.size; ++i) {
        SCOPED_TRACE(choices.items[i].instruction_set);
        for (const size_t count : {1, 2, 3, 5, 8}) {
          EXPECT_TRUE(bits_of(measure(choices.items[i].kernels, tokens, count, rows)) == bits_of(baseline))
              << n << " " << count << " " << rows;
        }
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
    for (const unsigned char byte : bits_of(measure(token_kernels(), tokens, 8, 3))) {
      hash = (hash ^ byte) * 1099511628211U;
    }
  }
  EXPECT_EQ(hash, kHashOfBits);
}

TEST(TokenKernelsTest, CountsWhatTwoSetsHaveInCommon) {
  const TokenKernelChoices choices = available_token_kernels();
  std::mt19937_64 random(8);
  for (const int64_t n : {1, 2, 3, 9, 64}) {
    std::vector<uint64_t> sets(n);
    for (uint64_t& set : sets) set = random() & random();
    std::vector<int64_t> expected;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) expected.push_back(5 + std::popcount(sets[i] & sets[j]));
    }
    for (int64_t set = 0; set < choices.size; ++set) {
      std::vector<int64_t> sums(expected.size(), 5);
      choices.items[set].kernels.add_common(sets.data(), n, sums.data());
      EXPECT_EQ(sums, expected) << choices.items[set].instruction_set << " " << n;
    }
  }
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
    const auto widen = [&](const void* from, RealFormat format, int64_t number) {
      choices.items[set].kernels.widen(&from, 1, format, number, widened.data());
    };
    widen(halves.data(), RealFormat::kHalf, n);
    for (int64_t i = 0; i < n; ++i) expect(i, c10::Half(halves[i], c10::Half::from_bits()));
    widen(halves.data(), RealFormat::kBFloat16, n);
    for (int64_t i = 0; i < n; ++i) expect(i, c10::BFloat16(halves[i], c10::BFloat16::from_bits()));
    const float floats[] = {1.5F, -0.0F, 1e-45F, INFINITY, 3e38F};
    widen(floats, RealFormat::kFloat, 5);
    for (int64_t i = 0; i < 5; ++i) expect(i, floats[i]);
    const double doubles[] = {1e300, -0.0, 5e-324};
    widen(doubles, RealFormat::kDouble, 3);
    for (int64_t i = 0; i < 3; ++i) expect(i, doubles[i]);
    const void* tokens[] = {doubles, doubles + 1};
    choices.items[set].kernels.widen(tokens, 2, RealFormat::kDouble, 2, widened.data());
    for (int64_t i = 0; i < 2; ++i) expect(i, doubles[i]);
    for (int64_t i = 0; i < 2; ++i) expect(padded_size(2) + i, doubles[1 + i]);
  }
}

TEST(TokenKernelsTest, SoftmaxAgreesWithTheFormula) {
  std::mt19937 random(4);
  for (const double scale : {0.1, 2.0, 8.0, 40.0}) {
    for (const int64_t n : {1, 3, 8, 60, 256}) {
      const std::vector<double> logits = random_values(n, random, scale);
      double sum = 0, entropy = 0;
      for (const double x : logits) sum += std::exp(x);
      for (const double x : logits) entropy -= std::exp(x) / sum * std::log(std::exp(x) / sum + 1e-9);
      std::vector<int64_t> sums;
      const SoftmaxTerms terms = softmax(buffer(logits), n, sums);
      ASSERT_TRUE(terms.in_range[0]);
      EXPECT_NEAR(terms.log_sum_exp[0], std::log(sum), 1e-12 * std::max(1.0, std::log(sum)));
      // min(p, 1e-9) stands for p ln(1 + 1e-9 / p), unless the entropy is small.
      entropy = std::max(0.0, entropy);
      EXPECT_NEAR(terms.entropy[0], entropy, std::min(3.1e-10 * n, 5e-7 * entropy) + 1e-12) << n << " " << scale;
      for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(std::ldexp(sums[i], -40), std::exp(logits[i]) / sum, 2e-12);
    }
  }
}

TEST(TokenKernelsTest, SoftmaxOfMaskedAndUnfitLogits) {
  std::vector<int64_t> sums;
  const SoftmaxTerms terms = softmax(buffer({-kInfinity, 1.0, -kInfinity, 1.0}), 4, sums);
  EXPECT_TRUE(terms.in_range[0]);
  EXPECT_EQ(sums, (std::vector<int64_t>{0, int64_t{1} << 39, 0, int64_t{1} << 39}));
  EXPECT_EQ(terms.largest[0], 1);
  EXPECT_NEAR(terms.entropy[0], std::log(2.0) - 2e-9, 1e-12);
  for (const std::vector<double>& unfit : std::vector<std::vector<double>>{
           {1, kNaN, 2}, {kInfinity, 0, 0}, {-kInfinity, -kInfinity, -kInfinity}, {kNaN, kNaN, kNaN}}) {
    EXPECT_FALSE(softmax(buffer(unfit), 3, sums).in_range[0]);
    EXPECT_EQ(sums, std::vector<int64_t>(3, 0)) << "nothing is added";
  }
}

TEST(TokenKernelsTest, LogitsOfAnySize) {
  for (const double far : {1e-300, 1e30, 1e300}) {
    const SoftmaxTerms terms = softmax(buffer({far, far, -far}), 3);
    EXPECT_TRUE(terms.in_range[0]);
    EXPECT_NEAR(terms.entropy[0], std::log(far < 1 ? 3.0 : 2.0), 4e-9) << far;
    EXPECT_NEAR(terms.log_sum_exp[0] / std::max(1.0, far), far < 1 ? std::log(3.0) : 1, 1e-12) << far;
  }
}

TEST(TokenKernelsTest, EntropyOfUnnormalizedValues) {
  std::vector<double> values = buffer({3, 1, 0});
  const EntropyTerms terms = entropy(values, 3);
  EXPECT_TRUE(terms.in_range[0]);
  EXPECT_EQ(token_kernels().largest(values.data(), 3), 0);
  EXPECT_NEAR(terms.entropy[0], -(0.75 * std::log(0.75 + 1e-9) + 0.25 * std::log(0.25 + 1e-9)), 1e-12);

  values = buffer({0, 0, 0});
  EXPECT_EQ(entropy(values, 3).entropy[0], 0.0);
  EXPECT_TRUE(entropy(values, 3).in_range[0]);
  values = buffer({5});
  EXPECT_EQ(entropy(values, 1).entropy[0], 0.0) << "not below 0";
  EXPECT_EQ(entropy(values, 0).entropy[0], 0.0);
  values = buffer({4e-320, 4e-320});
  EXPECT_NEAR(entropy(values, 2).entropy[0], std::log(2.0), 1e-8);
  for (const std::vector<double>& unfit :
       std::vector<std::vector<double>>{{1, -1}, {1, kNaN}, {kInfinity, 1}, {1e308, 1e308}}) {
    values = buffer(unfit);
    EXPECT_FALSE(entropy(values, 2).in_range[0]);
  }
  EXPECT_TRUE(entropy(buffer({1, 2}), 2, 2).in_range[0]);
  EXPECT_FALSE(entropy(buffer({1, 2}), 2, 1.5).in_range[0]) << "above the limit";
}

/// The ranks of one token, whose slots that hold no expert come last.
RankTerms rank(const std::vector<double>& weights, const std::vector<double>& experts, std::vector<int64_t>& units) {
  const size_t lane = 5, n = weights.size();
  std::vector<double> all_weights(n * kMaxGroup, kNaN), all_experts(n * kMaxGroup, 3);
  for (size_t slot = 0; slot < n; ++slot) {
    all_weights[slot * kMaxGroup + lane] = weights[slot];
    all_experts[slot * kMaxGroup + lane] = experts[slot];
  }
  std::vector<int64_t> all_units(n * kMaxGroup);
  RankTerms terms, mine;
  token_kernels().rank(all_weights.data(), all_experts.data(), static_cast<int64_t>(n), all_units.data(), terms);
  units.resize(n);
  for (size_t slot = 0; slot < n; ++slot) units[slot] = all_units[slot * kMaxGroup + lane];
  mine.first[0] = terms.first[lane];
  mine.largest[0] = terms.largest[lane];
  mine.second[0] = terms.second[lane];
  mine.entropies.in_range[0] = terms.entropies.in_range[lane];
  mine.entropies.entropy[0] = terms.entropies.entropy[lane];
  return mine;
}

template <typename Id>
void expect_slots(const TokenKernels& kernels, const std::vector<std::vector<double>>& weights,
                  const std::vector<std::vector<Id>>& ids, const std::vector<bool>& are_plain) {
  const auto n = static_cast<int64_t>(ids[0].size());
  const std::vector<double> widened = buffers(weights);
  SlotRows rows;
  rows.ids_are_long = sizeof(Id) == 8;
  for (int64_t token = 0; token < kMaxGroup; ++token) rows.ids[token] = ids[token].data();
  for (const bool has_weights : {true, false}) {
    rows.weights = has_weights ? widened.data() : nullptr;
    std::vector<double> read_weights(n * kMaxGroup, 7), read_experts(n * kMaxGroup, 7);
    std::vector<int64_t> read_ids(n * kMaxGroup);
    ReadSlots slots{read_weights.data(), read_experts.data(), read_ids.data(), {}};
    kernels.read_slots(rows, n, 10, 2, slots);
    for (int64_t token = 0; token < kMaxGroup; ++token) {
      const bool fits = std::ranges::all_of(ids[token], [](Id id) { return id >= 0 && id < 10; });
      ASSERT_EQ(slots.are_plain[token], has_weights ? are_plain[token] : fits) << token;
      for (int64_t slot = 0; slot < n && slots.are_plain[token]; ++slot) {
        const int64_t place = slot * kMaxGroup + token;
        EXPECT_EQ(read_ids[place], ids[token][slot]);
        EXPECT_EQ(read_weights[place], has_weights ? weights[token][slot] : 7);
        EXPECT_EQ(read_experts[place], has_weights ? static_cast<double>(ids[token][slot]) : 7);
      }
    }
  }
}

TEST(TokenKernelsTest, ReadsSlotsAndTellsThoseThatAreNotPlain) {
  const std::vector<std::vector<double>> weights = {{0.5, 0.25, 2},    {-2, 5e-324, 1}, {1, 0, 1}, {1, -0.0, 1},
                                                    {1, 2.0000001, 1}, {kNaN, 1, 1},    {1, 1, 1}, {1, 1, -kInfinity}};
  std::vector<std::vector<int32_t>> ids(kMaxGroup, {0, 9, 4});
  std::vector<bool> are_plain = {true, true, false, false, false, false, true, false};
  const TokenKernelChoices choices = available_token_kernels();
  for (int64_t set = 0; set < choices.size; ++set) {
    SCOPED_TRACE(choices.items[set].instruction_set);
    expect_slots(choices.items[set].kernels, weights, ids, are_plain);
    for (const int64_t unfit : {int64_t{-1}, int64_t{10}, int64_t{1} << 32, std::numeric_limits<int64_t>::min(),
                                std::numeric_limits<int64_t>::max()}) {
      std::vector<std::vector<int64_t>> long_ids(kMaxGroup, {3, 3, 0});
      long_ids[0][2] = unfit;
      std::vector<bool> expected = are_plain;
      expected[0] = false;
      expect_slots(choices.items[set].kernels, weights, long_ids, expected);
    }
  }
}

TEST(TokenKernelsTest, RanksSlotsByWeightThenByExpert) {
  struct Case {
    std::vector<double> weights, experts;
    double first, largest, second;
  };
  const std::vector<Case> cases = {
      {{0.25, 0.5, 0.25}, {4, 7, 1}, 7, 0.5, 0.25},
      {{0.5, 0.5, 0.1}, {4, 3, 1}, 3, 0.5, 0.5},
      {{0.5, 0.5}, {3, 4}, 3, 0.5, 0.5},
      {{-1, -2, -1}, {9, 3, 8}, 8, -1, -1},
      {{kNaN, kNaN, 0.1}, {2, 1, 3}, 3, 0.1, -kInfinity},
      {{kNaN, kNaN}, {2, 1}, 1, -kInfinity, -kInfinity},
      {{kInfinity, 1}, {2, 1}, 2, kInfinity, 1},
      {{0.3, 0}, {2, kInfinity}, 2, 0.3, -kInfinity},
      {{0, 0}, {kInfinity, kInfinity}, kInfinity, -kInfinity, -kInfinity},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    std::vector<int64_t> units;
    const RankTerms terms = rank(cases[i].weights, cases[i].experts, units);
    EXPECT_EQ(terms.first[0], cases[i].first) << i;
    EXPECT_EQ(terms.largest[0], cases[i].largest) << i;
    EXPECT_EQ(terms.second[0], cases[i].second) << i;
  }
}

TEST(TokenKernelsTest, EntropyAndUnitsOfWeights) {
  std::vector<int64_t> units;
  RankTerms terms = rank({0.75, 2, -2, 0x1p-41}, {0, 1, 2, 3}, units);
  EXPECT_EQ(units, (std::vector<int64_t>{int64_t{3} << 38, int64_t{1} << 41, -(int64_t{1} << 41), 0}));
  EXPECT_FALSE(terms.entropies.in_range[0]) << "a weight is negative";
  terms = rank({3, 1, 0}, {0, 1, kInfinity}, units);
  EXPECT_TRUE(terms.entropies.in_range[0]);
  EXPECT_NEAR(terms.entropies.entropy[0], -(0.75 * std::log(0.75 + 1e-9) + 0.25 * std::log(0.25 + 1e-9)), 1e-12);
  for (const std::vector<double>& unfit :
       std::vector<std::vector<double>>{{1, -1}, {1, kNaN}, {kInfinity, 1}, {1e308, 1e308}}) {
    EXPECT_FALSE(rank(unfit, {0, 1}, units).entropies.in_range[0]);
  }
  terms = rank({0, 0}, {0, 1}, units);
  EXPECT_TRUE(terms.entropies.in_range[0]);
  EXPECT_EQ(terms.entropies.entropy[0], 0.0);
}

TEST(TokenKernelsTest, LargestGoesToTheLowerIndexOnATie) {
  for (const int64_t n : {2, 8, 9, 17, 100}) {
    for (int64_t first = 0; first < n; ++first) {
      std::vector<double> values(n, -3.0);
      for (int64_t i = first; i < n; i += 3) values[i] = -1.0;
      values = buffer(values);
      EXPECT_EQ(softmax(values, n).largest[0], first) << n;
      EXPECT_EQ(token_kernels().largest(values.data(), n), first) << n;
    }
  }
}

TEST(TokenKernelsTest, SigmoidIsStableAtBothEnds) {
  std::vector<double> values = buffer({0, 1, -1, 800, -800, kNaN, kInfinity, -kInfinity});
  token_kernels().sigmoid(values.data(), 8);
  EXPECT_EQ(values[0], 0.5);
  EXPECT_NEAR(values[1], 1 / (1 + std::exp(-1.0)), 1e-12);
  EXPECT_NEAR(values[2], 1 / (1 + std::exp(1.0)), 1e-12);
  EXPECT_EQ(values[3], 1.0);
  EXPECT_EQ(values[4], 0.0);
  EXPECT_TRUE(std::isnan(values[5]));
  EXPECT_EQ(values[6], 1.0);
  EXPECT_EQ(values[7], 0.0);
}

}  // namespace
}  // namespace moetap::analysis
