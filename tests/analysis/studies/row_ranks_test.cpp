#include "analysis/studies/row_ranks.h"

#include <gtest/gtest.h>

#include <random>

namespace moetap::analysis::studies {
namespace {

/// Tables of few values, whose sums are often equal, and tables whose values differ in their last bits alone.
TEST(RowRanks, CountAsExactSumsDo) {
  std::mt19937_64 random(1);
  for (int repeat = 0; repeat < 300; ++repeat) {
    const size_t width = 1 + random() % 70, num_rows = 1 + random() % 12, used = random() % (num_rows + 1);
    std::vector<double> table(num_rows * width);
    for (double& value : table) {
      const uint64_t of[] = {random() % 3 << 46, (uint64_t{1} << 46) + random() % 4,
                             random() % ((uint64_t{1} << 48) + 1)};
      value = static_cast<double>(of[repeat % 3]);
    }
    const RowRanks ranks(table, width, num_rows);
    std::vector<int32_t> rows, sought;
    for (size_t row = 0; row < used; ++row) rows.push_back(static_cast<int32_t>(num_rows - 1 - row));
    for (size_t column = 0; column < width; column += 1 + random() % 3) sought.push_back(static_cast<int32_t>(column));
    std::vector<double> sums(width);
    for (const int32_t row : rows) {
      for (size_t i = 0; i < width; ++i) sums[i] += table[static_cast<size_t>(row) * width + i];
    }
    RowRanks::Sums scratch;
    for (const int64_t top_k : {1, 2, 8}) {
      int64_t expected = 0;
      for (const int32_t column : sought) {
        const auto x = static_cast<size_t>(column);
        int64_t rank = 0;
        for (size_t i = 0; i < width; ++i) rank += sums[i] > sums[x] || (sums[i] == sums[x] && i < x);
        expected += rank < top_k;
      }
      EXPECT_EQ(ranks.count_named(rows, sought, top_k, scratch), expected) << repeat << ", top " << top_k;
    }
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
