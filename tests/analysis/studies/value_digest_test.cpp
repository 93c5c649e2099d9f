#include "analysis/studies/value_digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace moetap::analysis::studies {
namespace {

std::string bytes_of(const ValueDigest& digest) {
  ByteSink sink;
  digest.save(sink);
  return sink.bytes();
}

TEST(ValueDigest, GivesTheMedian) {
  ValueDigest digest;
  EXPECT_TRUE(std::isnan(digest.median()));
  for (const double value : {3.0, -1.0, 0.5}) digest.add(value);
  EXPECT_EQ(digest.median(), 0.5);
  digest.add(0.75);
  EXPECT_EQ(digest.median(), 0.625);
  digest.add(0.5);
  EXPECT_EQ(digest.median(), 0.5);
  EXPECT_EQ(digest.count(), 5);
  EXPECT_EQ(digest.rounded_bits(), 0);
}

TEST(ValueDigest, IsTheSameForAnySplitBeyondItsLimit) {
  std::mt19937_64 random(5);
  std::vector<double> values(5 * ValueDigest::kMaxDistinct / 2);
  for (double& value : values) value = std::ldexp(static_cast<double>(random() >> 11), -53);
  ValueDigest whole;
  for (const double value : values) whole.add(value);
  std::vector<ValueDigest> parts(3);
  for (const double value : values) parts[random() % 3 == 0 ? 0 : 1 + random() % 2].add(value);
  parts[2].merge(parts[0]);
  parts[2].merge(parts[1]);
  EXPECT_EQ(bytes_of(whole), bytes_of(parts[2]));
  EXPECT_GT(whole.rounded_bits(), 0);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  EXPECT_NEAR(whole.median(), values[values.size() / 2], 2e-5);
}

TEST(ValueDigest, IsReadBackAndRefusesWhatIsNoDigest) {
  ValueDigest digest, read;
  for (int i = 0; i < 100; ++i) digest.add(std::sin(i % 37));
  const std::string bytes = bytes_of(digest);
  ByteSource source(bytes);
  read.load(source);
  EXPECT_EQ(bytes_of(read), bytes);
  ByteSink unsorted;
  unsorted.integer(0);
  unsorted.values(std::vector<uint64_t>{5, 1, 4, 1});
  std::string broken = unsorted.bytes();
  broken[8] = 2;  // two entries of a key and a count
  ByteSource from(broken);
  EXPECT_THROW(read.load(from), std::runtime_error);
}

}  // namespace
}  // namespace moetap::analysis::studies
