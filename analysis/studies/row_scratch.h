#pragma once

#include <cstdint>
#include <vector>

#include "analysis/studies/study_options.h"
#include "analysis/studies/token_batch.h"

namespace moetap::analysis::studies {

/// The named regions of the plane of queries i and keys j, of length n, q = n div 4, c = 3n div 4: in the order of the
/// columns. They overlap.
enum PlaneRegion : int64_t {
  kDiagonal,   // |i - j| <= 5
  kLongRange,  // |i - j| > n div 2
  kNTerminal,  // i < q, j < q
  kCTerminal,  // i >= c, j >= c
  kNToC,       // i < q, j >= c
  kCToN,       // i >= c, j < q
  kNumPlaneRegions
};
inline constexpr int64_t kBandWidth = 5;
inline constexpr int64_t kNotebookPlane = 100;  // the notebook's n is that of everybody: min(100, S)

// Note [Values of an attention row]
// Everything that the studies read of a row is linear in A, so one look at a row serves them all: a row of n keys is
// cut at the boundaries of all regions, and its pieces are summed in double, eight lanes in a fixed order. Equal rows
// give equal bits on every processor, and a row of equal float32 values has exact sums.
//
// plane, recommended: mass of A[i, :] in each region; share: the share of the n keys there.
// plane, notebook: the row is added to each query i < min(n, N) of the plane, N = min(100, S), so that a key j counts
// as often as (i, j) is in the region; `block` is that of all cells.

/// Values of the rows of an AttentionRows. Q rows, R regions.
struct RowValues {
  std::vector<double> sum;       // [Q] of A[i, :]
  std::vector<double> distance;  // [Q] of A[i, j] |i - j|
  std::vector<double> plane;     // [Q, 6]
  std::vector<double> share;     // [Q, 6]; recommended only
  std::vector<double> block;     // [Q]; notebook only
  std::vector<double> into;      // [Q, R] mass in each region of keys
  std::vector<int32_t> from;     // [Q] region of the query
};

/// Boundaries of R regions of n keys, [R + 1]: floor(r n / R); with `padded_length` S > 0, floor(r S / R) cut to n.
std::vector<int64_t> region_boundaries(int64_t num_keys, int64_t num_regions, int64_t padded_length);

/// Computes them once a block of rows, for all studies of a worker. Not thread-safe.
class RowScratch {
 public:
  /// Before each block of rows.
  void begin() { is_ready_ = false; }
  const RowValues& of(const AttentionRows& rows, const StudyOptions& options);

 private:
  bool is_ready_ = false;
  RowValues values_;
};

}  // namespace moetap::analysis::studies
