#include "plugin/formats/packed_reals.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace moetap::plugin {
namespace {

std::string packed(const std::vector<float>& values) {
  ByteWriter bytes;
  write_packed(bytes, values);
  return bytes.take();
}

void expect_same_bits(const std::vector<float>& values) {
  const std::string bytes = packed(values);
  ByteReader reader(bytes);
  std::vector<float> read(values.size());
  read_packed(reader, read);
  EXPECT_TRUE(reader.at_end());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(read[i]), std::bit_cast<uint32_t>(values[i])) << i;
  }
}

std::vector<float> normal_values(size_t number) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(number);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(PackedReals, AllBitsComeBack) {
  expect_same_bits({});
  expect_same_bits({0.0f});
  expect_same_bits({-0.0f, 1.0f});
  expect_same_bits({std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), 1e-30f});
  expect_same_bits({std::bit_cast<float>(0x7FC12345u), std::bit_cast<float>(0xFF800001u), 2.5f});
  expect_same_bits({std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max()});
  // Exponents that are just short enough to be counted, and just too far below.
  expect_same_bits({1.0f, std::ldexp(1.5f, -15), std::ldexp(1.5f, -16), std::ldexp(1.5f, -17)});
  expect_same_bits(normal_values(257));
  std::mt19937 random(5);
  std::vector<float> any(1000);
  for (float& value : any) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
  expect_same_bits(any);
}

TEST(PackedReals, LogitsAreShort) {
  EXPECT_LE(packed(normal_values(64)).size(), 220u);
  std::vector<float> halves = normal_values(64);
  for (float& value : halves) {
    value = std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xFFFF0000u);  // bfloat16
  }
  expect_same_bits(halves);
  EXPECT_LE(packed(halves).size(), 94u);
}

TEST(PackedReals, BytesThatEndEarlyAreRefused) {
  const std::string bytes = packed(normal_values(8));
  for (size_t size = 0; size < bytes.size(); ++size) {
    ByteReader reader(std::string_view(bytes).substr(0, size));
    std::vector<float> read(8);
    EXPECT_THROW(read_packed(reader, read), std::runtime_error) << size;
  }
  ByteReader reader("\x18");
  std::vector<float> read(1);
  EXPECT_THROW(read_packed(reader, read), std::runtime_error);
}

}  // namespace
}  // namespace moetap::plugin
