#pragma once

#include <cstdint>
#include <cstring>

namespace moetap::analysis::studies {

// Sums over pieces of a row, in double, in eight lanes whose order is fixed: without contraction the bits are the same
// on every processor. T: float or double.

struct PieceSums {
  double sum = 0;       // of a[j]
  double distance = 0;  // of a[j] |i - j|
};

// Vectors wider than the processor's are split by the compiler. They stay inside these functions.
using RowLanes = double __attribute__((vector_size(32)));
using RowMask = int64_t __attribute__((vector_size(32)));

inline RowLanes load_lanes(const float* from) {
  using Floats = float __attribute__((vector_size(16)));
  Floats loaded;
  std::memcpy(&loaded, from, sizeof(loaded));
  return __builtin_convertvector(loaded, RowLanes);
}

inline RowLanes load_lanes(const double* from) {
  RowLanes loaded;
  std::memcpy(&loaded, from, sizeof(loaded));
  return loaded;
}

inline RowLanes lanes_of(double value) {
  return RowLanes{value, value, value, value};
}

inline double total_of(const RowLanes& a, const RowLanes& b) {
  const RowLanes sum = a + b;
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/// Adds keys [begin, end) of a row.
template <typename T>
double piece_sum(const T* row, int64_t begin, int64_t end) {
  RowLanes a = lanes_of(0), b = lanes_of(0);
  int64_t j = begin;
  for (; j + 8 <= end; j += 8) {
    a += load_lanes(row + j);
    b += load_lanes(row + j + 4);
  }
  if (j + 4 <= end) {
    a += load_lanes(row + j);
    j += 4;
  }
  double sum = total_of(a, b);
  for (; j < end; ++j) sum += static_cast<double>(row[j]);
  return sum;
}

/// The same, with distances from query i.
template <typename T>
PieceSums piece_sums(const T* row, int64_t begin, int64_t end, int64_t i) {
  constexpr int64_t kNotSign = INT64_MAX;
  const RowMask magnitude = {kNotSign, kNotSign, kNotSign, kNotSign};
  RowLanes a = lanes_of(0), b = lanes_of(0), far_a = lanes_of(0), far_b = lanes_of(0);
  RowLanes offset = RowLanes{0, 1, 2, 3} + static_cast<double>(begin - i);
  const RowLanes four = lanes_of(4);
  int64_t j = begin;
  const auto add = [&](RowLanes& sum, RowLanes& far) {
    const RowLanes values = load_lanes(row + j);
    sum += values;
    far += values * reinterpret_cast<RowLanes>(reinterpret_cast<RowMask>(offset) & magnitude);
    offset += four;
    j += 4;
  };
  while (j + 8 <= end) {
    add(a, far_a);
    add(b, far_b);
  }
  if (j + 4 <= end) add(a, far_a);
  PieceSums sums{total_of(a, b), total_of(far_a, far_b)};
  for (; j < end; ++j) {
    const auto value = static_cast<double>(row[j]);
    sums.sum += value;
    sums.distance += value * static_cast<double>(j < i ? i - j : j - i);
  }
  return sums;
}

/// Sum of a[j] * weight[j] over keys [0, end).
template <typename T>
double weighted_sum(const T* row, const double* weight, int64_t end) {
  RowLanes a = lanes_of(0), b = lanes_of(0);
  int64_t j = 0;
  for (; j + 8 <= end; j += 8) {
    a += load_lanes(row + j) * load_lanes(weight + j);
    b += load_lanes(row + j + 4) * load_lanes(weight + j + 4);
  }
  double sum = total_of(a, b);
  for (; j < end; ++j) sum += static_cast<double>(row[j]) * weight[j];
  return sum;
}

}  // namespace moetap::analysis::studies
