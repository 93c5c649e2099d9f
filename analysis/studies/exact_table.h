#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "analysis/numbers/exact_sum.h"
#include "analysis/studies/partial_bytes.h"

namespace moetap::analysis::studies {

// Note [Tables of exact sums]
// A cell is the two limbs of Note [Exact sums of studies], of 2^-22 and 2^-72: 16 bytes. A term adds less than 2^50 to
// the low limb, so that after at most kMaxExactTerms terms a cell its row is carried: what the low limb has beyond 2^50
// moves to the high one. Carried limbs are unique, so equal sums have equal bits. A high limb beyond 2^61, a sum of
// 5e11, is refused: std::overflow_error.

/// Exact sums, [rows, width]. Terms that are not in range (infinite, NaN, 2^26 and more) are counted and not added.
class ExactTable {
 public:
  ExactTable() = default;
  ExactTable(int64_t rows, int64_t width);

  /// Adds factor * terms[c] to every column c of a row. terms: [width].
  void add_row(int64_t row, double factor, std::span<const double> terms);
  void add(int64_t row, int64_t column, double term) {
    make_room(row, 1);
    add_in_room(row, column, term);
  }
  /// Before `add_in_room`, which then adds up to `terms` terms (at most kMaxExactTerms / 2) to the row.
  void make_room(int64_t row, int64_t terms) {
    int32_t& pending = pending_[static_cast<size_t>(row)];
    pending += static_cast<int32_t>(terms);
    if (pending >= kMaxExactTerms) carry(row, terms);
  }
  void add_in_room(int64_t row, int64_t column, double term) {
    if (!is_exact_term(term)) {
      ++out_of_range_;
      return;
    }
    ExactLimbs limbs;
    limbs.add(term);
    high_[cell(row, column)] += limbs.high;
    low_[cell(row, column)] += limbs.low;
  }

  /// Adds a table of the same size.
  void merge(const ExactTable& other);
  void clear();

  /// The sum as the nearest double.
  double value(int64_t row, int64_t column) const;
  /// All sums, [rows, width].
  std::vector<double> values() const;
  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  int64_t out_of_range() const { return out_of_range_; }

  void save(ByteSink& sink) const;
  /// Throws std::runtime_error if the bytes are of a table of another size.
  void load(ByteSource& source);

 private:
  size_t cell(int64_t row, int64_t column) const { return static_cast<size_t>(row * width_ + column); }
  void carry(int64_t row, int64_t terms_to_come = 0);

  int64_t rows_ = 0;
  int64_t width_ = 0;
  int64_t out_of_range_ = 0;
  std::vector<int64_t> high_, low_;  // [rows, width]
  std::vector<int32_t> pending_;     // [rows] terms that one cell may have got since the row was carried
};

}  // namespace moetap::analysis::studies
