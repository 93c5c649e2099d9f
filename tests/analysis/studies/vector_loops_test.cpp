#include "analysis/studies/vector_loops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace moetap::analysis::studies {
namespace {

TEST(VectorLoops, AgreeWithTheirDefinitions) {
  std::mt19937 random(1);
  for (const size_t width : {1, 3, 8, 33, 128, 257}) {
    for (const VectorLoops* loops : {&vector_loops(), &baseline_vector_loops()}) {
      std::vector<uint32_t> numbers(width);
      for (uint32_t& number : numbers) number = random() % 4 == 0 ? static_cast<uint32_t>(random()) : random() % 5;
      for (const uint32_t x : {0U, 2U, 0x7fffffffU, 0x80000000U, 0xffffffffU}) {
        EXPECT_EQ(loops->count_larger(numbers.data(), width, x),
                  std::count_if(numbers.begin(), numbers.end(), [&](uint32_t number) { return number > x; }));
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

}  // namespace
}  // namespace moetap::analysis::studies
