#include "analysis/studies/sentence_numbers.h"

#include <gtest/gtest.h>

#include <limits>

namespace moetap::analysis::studies {
namespace {

TEST(SentenceNumbers, HaveThreeDigits) {
  EXPECT_EQ(number_text(1.2345), "1.23");
  EXPECT_EQ(number_text(0.0031), "0.00310");
  EXPECT_EQ(number_text(12400), "12400");
  EXPECT_EQ(number_text(-7), "-7.00");
  EXPECT_EQ(number_text(0), "0");
  EXPECT_EQ(number_text(3e-7), "3.00e-07");
  EXPECT_EQ(number_text(std::numeric_limits<double>::quiet_NaN()), "undefined");
  EXPECT_EQ(percent_text(0.41), "41 %");
  EXPECT_EQ(percent_text(0.0412), "4.1 %");
  EXPECT_EQ(percent_text(0.00412), "0.41 %");
  EXPECT_EQ(percent_text(0.985), "98 %");
  EXPECT_EQ(percent_text(0.9968), "99.7 %");
  EXPECT_EQ(percent_text(0.9991), "99.91 %");
  EXPECT_EQ(percent_text(0.9994), "99.94 %");
  EXPECT_EQ(percent_text(0.99999), "over 99.99 %");
  EXPECT_EQ(percent_text(1), "100 %");
  EXPECT_EQ(percent_text(1.0001), "100 %");
  EXPECT_EQ(percent_text(0), "0 %");
  EXPECT_EQ(count_text(1, "token", "tokens"), "1 token");
  EXPECT_EQ(count_text(2, "token", "tokens"), "2 tokens");
}

TEST(SentenceNumbers, FindExtremes) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(place_of_largest({none, 1, 3, 3}), 2);
  EXPECT_EQ(place_of_smallest({none, 1, 3, 1}), 1);
  EXPECT_EQ(place_of_largest({none}), -1);
}

}  // namespace
}  // namespace moetap::analysis::studies
