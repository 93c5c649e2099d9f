#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "analysis/studies/pattern_sums.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(PatternSums, ManyRowsAreCarried) {
  PatternSums sums(1, 2), other(1, 2);
  const double row[] = {7.5, 0x1p-40};
  for (int i = 0; i < 10000; ++i) (i % 3 == 0 ? sums : other).add(0, 1, 1.0, row, 2);
  sums.merge(other);
  EXPECT_EQ(sums.value(0, 1, 0), 75000);
  EXPECT_EQ(sums.value(0, 1, 1), 10000 * 0x1p-40);
  EXPECT_EQ(sums.value(0, 0, 0), 0);
  ByteSink sink;
  sums.save(sink);
  ByteSource source(sink.bytes());
  PatternSums loaded(1, 0);
  loaded.load(source);
  EXPECT_EQ(loaded.value(0, 1, 0), 75000);
}

TEST(PatternSums, RowsOutOfRangeAreCounted) {
  PatternSums sums(1, 2);
  const float row[] = {0.5F, std::nanf("")}, large[] = {9, 0};
  sums.add(0, 0, 1.0, row, 2);
  sums.add(0, 0, 1.0, large, 2);
  EXPECT_EQ(sums.out_of_range_rows(), 2);
  EXPECT_EQ(sums.value(0, 0, 0), 0);
  EXPECT_THROW(sums.merge(PatternSums(1, 3)), std::runtime_error);
}

}  // namespace
}  // namespace moetap::analysis::studies
