#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace moetap::plugin {

inline at::Tensor longs(std::vector<int64_t> values) {
  return at::tensor(values, at::kLong);
}

inline at::Tensor bools(std::vector<int64_t> values, at::IntArrayRef sizes) {
  return longs(values).to(at::kBool).reshape(sizes);
}

/// Expects the same type, sizes and values.
inline void expect_equal(const at::Tensor& actual, const at::Tensor& expected) {
  ASSERT_TRUE(actual.defined());
  EXPECT_TRUE(actual.scalar_type() == expected.scalar_type() && actual.sizes() == expected.sizes() &&
              at::equal(actual, expected))
      << "actual:\n"
      << actual << "\nexpected:\n"
      << expected;
}

}  // namespace moetap::plugin
