#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "analysis/studies/vector_loops.h"

namespace moetap::analysis::studies {

// Note [Ranks of sums, found coarsely first]
// Which columns have the largest sums of some rows is asked of every token. The sums are exact: whole numbers of up to
// 53 bits. A copy of the table has their first bits alone, as 32-bit numbers: with R rows, a sum of the copy is less
// than R below the exact one, in units of the copy. So a column whose copy is R or more larger is larger, and one whose
// copy is R or more smaller is smaller. Only where those in between decide are the exact sums looked at.

/// A table [rows, width] of whole numbers below 2^49, whose rows are summed, up to `most_rows` of them.
class RowRanks {
 public:
  RowRanks() = default;
  RowRanks(std::vector<double> table, size_t width, size_t most_rows);

  /// How many of the columns `sought` are among the top_k with the largest sums of the rows, ties to the lower column.
  /// `sums` keeps its memory between calls.
  struct Sums {
    std::vector<uint32_t> coarse;
    std::vector<double> exact;
  };
  int64_t count_named(std::span<const int32_t> rows, std::span<const int32_t> sought, int64_t top_k, Sums& sums) const;

 private:
  size_t width_ = 0, coarse_width_ = 0;
  std::vector<double> table_;     // [rows, width]
  std::vector<uint32_t> coarse_;  // [rows, coarse_width], then zeros
  const VectorLoops* loops_ = &vector_loops();
};

}  // namespace moetap::analysis::studies
