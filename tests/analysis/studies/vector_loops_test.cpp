#include "analysis/studies/vector_loops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

namespace moetap::analysis::studies {
namespace {

TEST(VectorLoops, AgreeWithTheirDefinitions) {
  std::mt19937 random(1);
  for (const size_t width : {1, 3, 8, 33, 128, 257}) {
    for (const VectorLoops* loops : all_vector_loops()) {
      std::vector<uint32_t> numbers(width);
      for (uint32_t& number : numbers) number = random() % 4 == 0 ? static_cast<uint32_t>(random()) : random() % 5;
      for (const uint32_t x : {0U, 2U, 127U, 128U, 255U, 0x7fffffffU, 0x80000000U, 0xffffffffU}) {
        std::vector<uint32_t> raised = numbers;
        loops->raise_smaller(raised.data(), width, x);
        for (size_t i = 0; i < width; ++i) EXPECT_EQ(raised[i], numbers[i] + (numbers[i] < x));
      }
      std::vector<double> table(3 * width), sums(width, -1);
      for (double& value : table) value = static_cast<double>(random() % 7);
      const std::vector<int32_t> rows = {2, 0};
      loops->add_rows(table.data(), rows, width, sums.data());
      for (size_t i = 0; i < width; ++i) EXPECT_EQ(sums[i], table[2 * width + i] + table[i]);
      for (size_t place = 0; place < width; ++place) {
        int64_t rank = 0;
        for (size_t i = 0; i < width; ++i) rank += sums[i] > sums[place] || (sums[i] == sums[place] && i < place);
        EXPECT_EQ(loops->rank_of(sums.data(), width, place), rank);
      }
      const size_t whole = (width + kLanes - 1) / kLanes * kLanes;
      std::vector<uint32_t> whole_table(3 * whole), whole_sums(whole);
      for (uint32_t& value : whole_table) value = static_cast<uint32_t>(random() % 9);
      loops->add_whole_rows(whole_table.data(), rows, whole, whole_sums.data());
      for (size_t i = 0; i < whole; ++i) EXPECT_EQ(whole_sums[i], whole_table[2 * whole + i] + whole_table[i]);
      for (const uint32_t least : {0U, 7U, 16U, 0xffffffffU}) {
        const auto count = std::count_if(whole_sums.begin(), whole_sums.end(), [&](uint32_t v) { return v >= least; });
        EXPECT_EQ(loops->count_from(whole_sums.data(), whole, least), count);
      }
      std::vector<uint64_t> bits(3 * width);
      std::vector<int64_t> counts(width, 5);
      for (uint64_t& word : bits) word = static_cast<uint64_t>(random()) << 32 | random();
      const std::vector<int32_t> tokens = {2, 0, 1, 1};
      loops->count_united_bits(bits.data(), width, tokens, 2, counts.data());
      for (size_t w = 0; w < width; ++w) {
        EXPECT_EQ(counts[w],
                  5 + __builtin_popcountll(bits[2 * width + w] | bits[w]) + __builtin_popcountll(bits[width + w]));
      }
    }
  }
}

TEST(VectorLoops, CountPairs) {
  std::mt19937 random(3);
  constexpr size_t kExperts = 70, kWidth = 2 * kByteLanes, kFrom = 3, kTo = 2;
  std::vector<int32_t> from, to;
  for (size_t t = 0; t < kPairTokens; ++t) {
    for (size_t k = 0; k < kFrom; ++k) from.push_back(static_cast<int32_t>(random() % 20 + 20 * k));
    for (size_t k = 0; k < kTo; ++k) to.push_back(static_cast<int32_t>(random() % 35 + 35 * k));
  }
  std::vector<int64_t> expected(kExperts * kExperts, 1);
  for (size_t t = 0; t < kPairTokens; ++t) {
    for (size_t a = 0; a < kFrom; ++a) {
      for (size_t b = 0; b < kTo; ++b) {
        ++expected[static_cast<size_t>(from[t * kFrom + a]) * kExperts + static_cast<size_t>(to[t * kTo + b])];
      }
    }
  }
  for (const VectorLoops* loops : all_vector_loops()) {
    std::vector<uint8_t> flags(kPairTokens * kWidth, 9), bytes(kExperts * kWidth);
    std::vector<int64_t> sums(kExperts * kExperts, 1);
    loops->count_pairs(from, kFrom, to, kTo, kWidth, flags.data(), bytes.data());
    for (size_t e = 0; e < kExperts; ++e) {
      loops->take_bytes(bytes.data() + e * kWidth, kExperts, sums.data() + e * kExperts);
    }
    EXPECT_EQ(sums, expected);
    EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), static_cast<std::ptrdiff_t>(bytes.size()));
  }
}

TEST(VectorLoops, LookAtEveryValue) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const VectorLoops* loops : all_vector_loops()) {
    for (const size_t width : {1, 2, 3, 8, 11, 16, 19}) {
      constexpr size_t kRows = 5;
      std::vector<int32_t> ids(kRows * width);
      std::vector<double> values(kRows * width);
      for (size_t i = 0; i < ids.size(); ++i) {
        ids[i] = static_cast<int32_t>(i % width);
        values[i] = static_cast<double>(width - i % width);
      }
      const auto end = static_cast<int64_t>(width);
      EXPECT_TRUE(loops->are_below(ids.data(), ids.size(), end));
      EXPECT_FALSE(loops->have_repeats(ids.data(), kRows, width));
      EXPECT_TRUE(loops->descend(values.data(), kRows, width));
      EXPECT_TRUE(loops->have_no_zero(values.data(), values.size()));
      EXPECT_TRUE(loops->are_finite_from_zero(values.data(), values.size()));
      for (size_t i = 0; i < ids.size(); ++i) {
        std::vector<int32_t> other = ids;
        other[i] = -1;
        EXPECT_FALSE(loops->are_below(other.data(), other.size(), end));
        other[i] = static_cast<int32_t>(width);
        EXPECT_FALSE(loops->are_below(other.data(), other.size(), end));
        EXPECT_FALSE(loops->have_repeats(other.data(), kRows, width));
        other[i] = ids[i / width * width + (i + 1) % width];
        EXPECT_EQ(loops->have_repeats(other.data(), kRows, width), width > 1 && other[i] != ids[i]);
        std::vector<double> changed = values;
        for (const double value : {nan, infinity, -infinity, -1.0}) {
          changed[i] = value;
          EXPECT_FALSE(loops->are_finite_from_zero(changed.data(), changed.size()));
          EXPECT_TRUE(loops->have_no_zero(changed.data(), changed.size()));
        }
        changed[i] = 0;
        EXPECT_FALSE(loops->have_no_zero(changed.data(), changed.size()));
        EXPECT_TRUE(loops->are_finite_from_zero(changed.data(), changed.size()));
        if (i % width == 0) continue;
        changed[i] = values[i - 1];
        EXPECT_FALSE(loops->descend(changed.data(), kRows, width));
        changed[i] = nan;
        EXPECT_FALSE(loops->descend(changed.data(), kRows, width));
      }
    }
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
