#include "analysis/studies/vector_loops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

namespace moetap::analysis::studies {
namespace {

TEST(VectorLoops, AgreeWithTheirDefinitions) {
  std::mt19937 random(1);
  for (const size_t width : {1, 3, 8, 33, 128, 257}) {
    for (const VectorLoops* loops : all_vector_loops()) {
      std::vector<uint32_t> numbers(width);
      for (uint32_t& number : numbers) number = random() % 4 == 0 ? static_cast<uint32_t>(random()) : random() % 5;
      std::vector<uint8_t> bytes(numbers.begin(), numbers.end());
      for (const uint32_t x : {0U, 2U, 127U, 128U, 255U, 0x7fffffffU, 0x80000000U, 0xffffffffU}) {
        std::vector<uint32_t> raised = numbers;
        std::vector<uint8_t> raised_bytes = bytes;
        loops->raise_smaller(raised.data(), width, x);
        loops->raise_smaller_bytes(raised_bytes.data(), width, static_cast<uint8_t>(x));
        for (size_t i = 0; i < width; ++i) {
          EXPECT_EQ(raised[i], numbers[i] + (numbers[i] < x));
          EXPECT_EQ(raised_bytes[i], bytes[i] + (bytes[i] < static_cast<uint8_t>(x)));
        }
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
      std::vector<uint64_t> bits(3 * width), united(width);
      std::vector<int64_t> counts(width, 5);
      for (uint64_t& word : bits) word = static_cast<uint64_t>(random()) << 32 | random();
      loops->count_united_bits(bits.data(), rows, width, united.data(), counts.data());
      for (size_t w = 0; w < width; ++w) {
        EXPECT_EQ(united[w], bits[2 * width + w] | bits[w]);
        EXPECT_EQ(counts[w], 5 + __builtin_popcountll(united[w]));
      }
    }
  }
}

TEST(VectorLoops, SettleTheSameList) {
  std::mt19937_64 random(2);
  for (int repeat = 0; repeat < 2000; ++repeat) {
    const size_t size = random() % 40;
    std::vector<int64_t> whole(size);
    for (int64_t& value : whole) value = 1 + static_cast<int64_t>(random() >> (repeat % 3 == 0 ? 60 : 2));
    const int64_t sought = size > 0 && repeat % 4 != 0 ? whole[random() % size] : int64_t{1} << 62;
    const auto carried = static_cast<int64_t>(random() >> 2) + 1;
    whole.resize(size + kListPadding);
    std::vector<int64_t> expected = whole;
    size_t place = 0;
    int64_t moving = carried;
    for (; place < size && expected[place] != sought; ++place) {
      if (expected[place] > moving) std::swap(expected[place], moving);
    }
    expected[place] = moving;
    for (const VectorLoops* loops : all_vector_loops()) {
      std::vector<int64_t> list = whole;
      EXPECT_EQ(loops->settle(list.data(), size, sought, carried), place);
      EXPECT_EQ(list, expected);
    }
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
