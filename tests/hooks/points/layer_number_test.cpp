#include "hooks/points/layer_number.h"

#include <gtest/gtest.h>

namespace moetap::hooks {
namespace {

TEST(LayerNumber, HasNoLeadingZeros) {
  EXPECT_EQ(without_leading_zeros("007"), "7");
  EXPECT_EQ(without_leading_zeros("000"), "0");
  EXPECT_EQ(without_leading_zeros("10"), "10");
}

TEST(LayerNumber, IsComparedAsANumber) {
  EXPECT_TRUE(is_smaller_number("9", "10"));
  EXPECT_FALSE(is_smaller_number("10", "9"));
  EXPECT_FALSE(is_smaller_number("10", "10"));
  EXPECT_TRUE(is_smaller_number("18446744073709551615", "18446744073709551616"));
}

TEST(LayerNumber, IsFollowedByTheNext) {
  EXPECT_EQ(next_number("0"), "1");
  EXPECT_EQ(next_number("1299"), "1300");
  EXPECT_EQ(next_number("9999999999999999999999999"), "10000000000000000000000000");
}

}  // namespace
}  // namespace moetap::hooks
