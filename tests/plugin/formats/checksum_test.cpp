#include "plugin/formats/checksum.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace moetap::plugin {
namespace {

TEST(ChecksumTest, EveryBitAndTheLengthCount) {
  const std::string bytes = "nineteen bytes long";
  const uint64_t sum = checksum(7, bytes);
  EXPECT_NE(checksum(8, bytes), sum);
  for (size_t i = 0; i < 8 * bytes.size(); ++i) {
    std::string other = bytes;
    other[i / 8] ^= static_cast<char>(1 << (i % 8));
    EXPECT_NE(checksum(7, other), sum) << i;
  }
  std::set<uint64_t> of_lengths;
  for (size_t size = 0; size <= bytes.size(); ++size) of_lengths.insert(checksum(7, bytes.substr(0, size)));
  for (size_t zeros = 1; zeros < 9; ++zeros) of_lengths.insert(checksum(7, std::string(zeros, '\0')));
  EXPECT_EQ(of_lengths.size(), bytes.size() + 1 + 8);
}

}  // namespace
}  // namespace moetap::plugin
