#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "analysis/studies/exact_table.h"
#include "tests/analysis/studies/studies_support.h"

namespace moetap::analysis::studies {
namespace {

TEST(ExactTable, OrderDoesNotMatter) {
  std::mt19937_64 random(3);
  std::vector<double> terms(20000);
  for (double& term : terms)
    term = std::ldexp(static_cast<double>(random() >> 11) * 0x1p-53 - 0.5, static_cast<int>(random() % 60) - 40);
  ExactTable forward(2, 3), backward(2, 3), a(2, 3), b(2, 3);
  long double expected = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    forward.add(1, 2, terms[i]);
    backward.add(1, 2, terms[terms.size() - 1 - i]);
    (i % 3 == 0 ? a : b).add(1, 2, terms[i]);
    expected += static_cast<long double>(terms[i]);
  }
  b.merge(a);
  EXPECT_EQ(forward.value(1, 2), backward.value(1, 2));
  EXPECT_EQ(forward.value(1, 2), b.value(1, 2));
  EXPECT_NEAR(forward.value(1, 2), static_cast<double>(expected), 1e-12 * std::abs(static_cast<double>(expected)));
  EXPECT_EQ(forward.value(0, 2), 0);
  ByteSink one, other;
  forward.save(one);
  b.save(other);
  EXPECT_EQ(one.bytes(), other.bytes());
}

TEST(ExactTable, RowsAreCarriedBeforeTheirLimbsOverflow) {
  ExactTable table(1, 2);
  const double terms[] = {-16777215.999, 16777215.999};
  for (int i = 0; i < 30000; ++i) table.add_row(0, 1, terms);
  EXPECT_NEAR(table.value(0, 1), 503316479970.0, 1e-3);
  EXPECT_EQ(table.value(0, 0), -table.value(0, 1));
  const auto add_more = [&] {
    for (int i = 0; i < 30000; ++i) table.add_row(0, 1, terms);
  };
  EXPECT_THROW(add_more(), std::overflow_error);
}

TEST(ExactTable, RowsOfFactorsAreCellsOfProducts) {
  ExactTable rows(2, 3), cells(2, 3);
  const double terms[] = {0.1, -0.7, 1e-9};
  for (int i = 1; i < 50; ++i) {
    rows.add_row(1, 1.0 / i, terms);
    for (int64_t c = 0; c < 3; ++c) cells.add(1, c, 1.0 / i * terms[c]);
  }
  EXPECT_EQ(rows.values(), cells.values());
}

TEST(ExactTable, WhatIsNotInRangeIsCountedAndLeftOut) {
  ExactTable table(1, 3);
  const double terms[] = {1, std::nan(""), HUGE_VAL};
  table.add_row(0, 1, terms);
  table.add(0, 1, 0x1p26);
  EXPECT_EQ(table.out_of_range(), 3);
  EXPECT_EQ(table.values(), (std::vector<double>{1, 0, 0}));
}

TEST(ExactTable, RefusesBytesOfAnotherSize) {
  ExactTable table(2, 3);
  ByteSink sink;
  table.save(sink);
  ByteSource source(sink.bytes());
  ExactTable other(3, 2);
  EXPECT_THROW(other.load(source), std::runtime_error);
  EXPECT_THROW(other.merge(table), std::logic_error);
}

}  // namespace
}  // namespace moetap::analysis::studies
