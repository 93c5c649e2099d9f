#include "analysis/studies/row_scratch.h"

#include <algorithm>
#include <cstddef>
#include <span>

#include "analysis/studies/row_sums.h"

namespace moetap::analysis::studies {
namespace {

/// The pieces between all boundaries of a row, and which of them a range of keys is made of.
class RowPieces {
 public:
  RowPieces(const std::vector<int64_t>& boundaries, int64_t num_keys) : cuts_(boundaries) {
    cuts_.push_back(0);
    cuts_.push_back(num_keys);
    for (int64_t& cut : cuts_) cut = std::clamp<int64_t>(cut, 0, num_keys);
    std::sort(cuts_.begin(), cuts_.end());
    cuts_.erase(std::unique(cuts_.begin(), cuts_.end()), cuts_.end());
    sums_.resize(cuts_.size());
  }

  struct Range {
    size_t begin = 0, end = 0;  // pieces
  };
  /// begin and end are boundaries.
  Range range(int64_t begin, int64_t end) const {
    const auto place = [&](int64_t cut) {
      const int64_t inside = std::clamp<int64_t>(cut, 0, cuts_.back());
      return static_cast<size_t>(std::lower_bound(cuts_.begin(), cuts_.end(), inside) - cuts_.begin());
    };
    return {place(begin), place(end)};
  }

  /// Reads a row. Returns the sum of its distances from query i.
  template <typename T>
  double read(const T* row, int64_t i) {
    double distance = 0;
    for (size_t piece = 0; piece + 1 < cuts_.size(); ++piece) {
      const PieceSums sums = piece_sums(row, cuts_[piece], cuts_[piece + 1], i);
      sums_[piece] = sums.sum;
      distance += sums.distance;
    }
    return distance;
  }
  double sum(const Range& range) const {
    double total = 0;
    for (size_t piece = range.begin; piece < range.end; ++piece) total += sums_[piece];
    return total;
  }

 private:
  std::vector<int64_t> cuts_;  // ascending, from 0 to the number of keys
  std::vector<double> sums_;   // of each piece of the present row
};

/// How often a key counts in the notebook's plane of N queries, of which the first m are added to.
class NotebookPlane {
 public:
  NotebookPlane(int64_t num_keys, int64_t padded_length)
      : size_(std::min(kNotebookPlane, padded_length)), queries_(std::min(num_keys, size_)) {
    const int64_t half = size_ / 2;
    for (int64_t j = 0; j < queries_; ++j) {
      const int64_t near = std::min(queries_, j + kBandWidth + 1) - std::max<int64_t>(0, j - kBandWidth);
      diagonal_.push_back(static_cast<double>(std::max<int64_t>(0, near)));
      const int64_t before = std::clamp<int64_t>(j - half, 0, queries_);
      const int64_t behind = std::max<int64_t>(0, queries_ - (j + half + 1));
      long_range_.push_back(static_cast<double>(before + behind));
    }
  }

  int64_t quarter() const { return size_ / 4; }
  int64_t last_quarter() const { return 3 * size_ / 4; }
  int64_t keys() const { return queries_; }  // keys that a row has in the plane: as many as queries

  template <typename T>
  void read(const T* row, double first, double last, double all, double* plane, double& block) const {
    const auto in_first = static_cast<double>(std::min(queries_, quarter()));
    const auto in_last = static_cast<double>(std::max<int64_t>(0, queries_ - last_quarter()));
    plane[kDiagonal] = weighted_sum(row, diagonal_.data(), queries_);
    plane[kLongRange] = weighted_sum(row, long_range_.data(), queries_);
    plane[kNTerminal] = in_first * first;
    plane[kCTerminal] = in_last * last;
    plane[kNToC] = in_first * last;
    plane[kCToN] = in_last * first;
    block = static_cast<double>(queries_) * all;
  }

 private:
  const int64_t size_;     // N
  const int64_t queries_;  // min(n, N)
  std::vector<double> diagonal_, long_range_;
};

/// Mass of the regions that a band around the query makes, and of the quarters.
template <typename T>
void read_plane(const T* row, int64_t i, int64_t n, double first, double last, double* plane, double* share) {
  const int64_t q = n / 4, c = 3 * n / 4, half = n / 2;
  const auto keys = static_cast<double>(n);
  const int64_t near_begin = std::clamp<int64_t>(i - kBandWidth, 0, n);
  const int64_t near_end = std::clamp<int64_t>(i + kBandWidth + 1, 0, n);
  const int64_t before_end = std::clamp<int64_t>(i - half, 0, n);
  const int64_t behind_begin = std::clamp<int64_t>(i + half + 1, 0, n);
  plane[kDiagonal] = piece_sum(row, near_begin, near_end);
  share[kDiagonal] = static_cast<double>(near_end - near_begin) / keys;
  plane[kLongRange] = piece_sum(row, int64_t{0}, before_end) + piece_sum(row, behind_begin, n);
  share[kLongRange] = static_cast<double>(before_end + (n - behind_begin)) / keys;
  const double in_first = i < q ? 1 : 0, in_last = i >= c ? 1 : 0;
  const double first_share = static_cast<double>(q) / keys, last_share = static_cast<double>(n - c) / keys;
  plane[kNTerminal] = i < q ? first : 0;
  plane[kCTerminal] = i >= c ? last : 0;
  plane[kNToC] = i < q ? last : 0;
  plane[kCToN] = i >= c ? first : 0;
  share[kNTerminal] = in_first * first_share;
  share[kCTerminal] = in_last * last_share;
  share[kNToC] = in_first * last_share;
  share[kCToN] = in_last * first_share;
}

template <typename T>
void read_rows(const AttentionRows& rows, const T* values, const StudyOptions& options, RowValues& into) {
  const bool notebook = options.definitions == Definitions::kNotebook;
  const int64_t n = rows.num_keys;
  const bool absolute = notebook || options.absolute_regions;
  const std::vector<int64_t> regions = region_boundaries(n, options.regions, absolute ? rows.padded_length : 0);
  const NotebookPlane plane(n, notebook ? rows.padded_length : 0);
  const int64_t q = notebook ? plane.quarter() : n / 4;
  const int64_t c = notebook ? plane.last_quarter() : 3 * n / 4;
  const int64_t end = notebook ? plane.keys() : n;
  std::vector<int64_t> cuts = regions;
  cuts.insert(cuts.end(), {q, c, end});
  RowPieces pieces(cuts, n);
  std::vector<RowPieces::Range> parts;
  for (size_t r = 0; r + 1 < regions.size(); ++r) parts.push_back(pieces.range(regions[r], regions[r + 1]));
  const RowPieces::Range all = pieces.range(0, n), first = pieces.range(0, std::min(q, end));
  const RowPieces::Range last = pieces.range(std::min(c, end), end), block = pieces.range(0, end);

  for (int64_t row = 0; row < rows.num_queries; ++row) {
    const T* const a = values + row * rows.row_stride;
    const int64_t i = rows.first_query + row;
    const auto at = static_cast<size_t>(row);
    into.distance[at] = pieces.read(a, i);
    into.sum[at] = pieces.sum(all);
    for (size_t r = 0; r < parts.size(); ++r) into.into[at * parts.size() + r] = pieces.sum(parts[r]);
    const auto above = std::upper_bound(regions.begin() + 1, regions.end() - 1, i);
    into.from[at] = static_cast<int32_t>(above - regions.begin()) - 1;
    double* const masses = into.plane.data() + at * kNumPlaneRegions;
    if (notebook) {
      plane.read(a, pieces.sum(first), pieces.sum(last), pieces.sum(block), masses, into.block[at]);
    } else {
      read_plane(a, i, n, pieces.sum(first), pieces.sum(last), masses, into.share.data() + at * kNumPlaneRegions);
    }
  }
}

}  // namespace

std::vector<int64_t> region_boundaries(int64_t num_keys, int64_t num_regions, int64_t padded_length) {
  std::vector<int64_t> boundaries;
  const int64_t length = padded_length > 0 ? padded_length : num_keys;
  for (int64_t r = 0; r <= num_regions; ++r) boundaries.push_back(std::min(r * length / num_regions, num_keys));
  return boundaries;
}

const RowValues& RowScratch::of(const AttentionRows& rows, const StudyOptions& options) {
  if (is_ready_) return values_;
  const auto num_rows = static_cast<size_t>(rows.num_queries);
  values_.sum.resize(num_rows);
  values_.distance.resize(num_rows);
  values_.from.resize(num_rows);
  values_.block.resize(num_rows);
  values_.plane.resize(num_rows * kNumPlaneRegions);
  values_.share.resize(num_rows * kNumPlaneRegions);
  values_.into.resize(num_rows * static_cast<size_t>(options.regions));
  if (rows.f32 != nullptr) {
    read_rows(rows, rows.f32, options, values_);
  } else {
    read_rows(rows, rows.f64, options, values_);
  }
  is_ready_ = true;
  return values_;
}

}  // namespace moetap::analysis::studies
