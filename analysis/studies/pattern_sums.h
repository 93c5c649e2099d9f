#pragma once

#include <cstdint>
#include <vector>

#include "analysis/studies/partial_bytes.h"
#include "analysis/studies/token_batch.h"

namespace moetap::analysis::studies {

// Note [Sums of patterns]
// A pattern is [E, S, S]: too large for two limbs a cell. A term g * A is rounded to a multiple of 2^-48 and added to
// one 64-bit integer, 8 bytes a cell. |g * A| < 8 is in range; a row with any other term is counted and left out. After
// 2^11 rows that were added to one line of an expert, what the line has beyond 2^51 moves to a second plane, which is
// allocated then. Sums are exact in any order; a cell's error is at most 2^-49 a term.

/// Sums by expert and line, of rows of keys: E matrices of [S, S].
class PatternSums {
 public:
  PatternSums() = default;
  PatternSums(int64_t num_experts, int64_t length);

  /// Adds gate * row to a line of an expert. T: float or double; n keys.
  template <typename T>
  void add(int64_t expert, int64_t line, double gate, const T* row, int64_t num_keys);

  void merge(const PatternSums& other);
  void save(ByteSink& sink) const;
  void load(ByteSource& source);

  int64_t num_experts() const { return num_experts_; }
  int64_t length() const { return length_; }
  int64_t out_of_range_rows() const { return out_of_range_rows_; }
  double value(int64_t expert, int64_t line, int64_t key) const;

 private:
  size_t line_of(int64_t expert, int64_t line) const { return static_cast<size_t>(expert * length_ + line); }
  void carry(size_t line);

  int64_t num_experts_ = 0, length_ = 0;
  int64_t out_of_range_rows_ = 0;
  std::vector<int64_t> low_;      // [E, S, S] units of 2^-48
  std::vector<int64_t> high_;     // [E, S, S] units of 2^3; empty: no line was carried
  std::vector<int32_t> pending_;  // [E, S] rows since the line was carried
};

}  // namespace moetap::analysis::studies
