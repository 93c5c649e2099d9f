#pragma once

#include <cmath>
#include <cstddef>

#include "analysis/studies/table.h"

namespace moetap::analysis::studies {

/// Cosine of two vectors; kUndefined if one of them is 0.
template <typename Value>
double cosine(const Value* a, const Value* b, size_t size) {
  double product = 0, square_a = 0, square_b = 0;
  for (size_t i = 0; i < size; ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    product += x * y;
    square_a += x * x;
    square_b += y * y;
  }
  return square_a == 0 || square_b == 0 ? kUndefined : product / (std::sqrt(square_a) * std::sqrt(square_b));
}

/// Pearson's correlation of two series; kUndefined if one of them is constant.
inline double pearson(const double* a, const double* b, size_t size) {
  double mean_a = 0, mean_b = 0;
  bool varies_a = false, varies_b = false;
  for (size_t i = 0; i < size; ++i) {
    mean_a += a[i] / static_cast<double>(size);
    mean_b += b[i] / static_cast<double>(size);
    varies_a |= a[i] != a[0];
    varies_b |= b[i] != b[0];
  }
  if (!varies_a || !varies_b) return kUndefined;
  double product = 0, square_a = 0, square_b = 0;
  for (size_t i = 0; i < size; ++i) {
    product += (a[i] - mean_a) * (b[i] - mean_b);
    square_a += (a[i] - mean_a) * (a[i] - mean_a);
    square_b += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return product / (std::sqrt(square_a) * std::sqrt(square_b));
}

}  // namespace moetap::analysis::studies
