#include "analysis/studies/exact_table.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

constexpr int kCarryBits = kExactFractionBits - 22;  // units of the low limb in one of the high limb
constexpr int64_t kLowMask = (int64_t{1} << kCarryBits) - 1;
constexpr int64_t kHighLimit = int64_t{1} << 61;

void carry_cell(int64_t& high, int64_t& low) {
  high += low >> kCarryBits;  // rounds down, as the carry of a negative limb needs
  low &= kLowMask;
  if (high > kHighLimit || high < -kHighLimit) throw std::overflow_error("a sum of a study is beyond 5e11");
}

}  // namespace

ExactTable::ExactTable(int64_t rows, int64_t width)
    : rows_(rows),
      width_(width),
      high_(static_cast<size_t>(rows * width)),
      low_(static_cast<size_t>(rows * width)),
      pending_(static_cast<size_t>(rows)) {}

void ExactTable::carry(int64_t row, int64_t terms_to_come) {
  for (size_t i = cell(row, 0); i < cell(row + 1, 0); ++i) carry_cell(high_[i], low_[i]);
  pending_[static_cast<size_t>(row)] = static_cast<int32_t>(terms_to_come);
}

void ExactTable::add_row(int64_t row, double factor, std::span<const double> terms) {
  int64_t outside = 0;
  for (const double term : terms) outside += !(std::abs(factor * term) < kExactTermLimit);
  if (outside > 0) {
    for (int64_t c = 0; c < width_; ++c) add(row, c, factor * terms[static_cast<size_t>(c)]);
    return;
  }
  make_room(row, 1);
  int64_t* __restrict high = high_.data() + cell(row, 0);
  int64_t* __restrict low = low_.data() + cell(row, 0);
  for (size_t c = 0; c < terms.size(); ++c) {
    ExactLimbs limbs;
    limbs.add(factor * terms[c]);
    high[c] += limbs.high;
    low[c] += limbs.low;
  }
}

void ExactTable::merge(const ExactTable& other) {
  if (rows_ != other.rows_ || width_ != other.width_) throw std::logic_error("tables of sums of different sizes");
  for (int64_t row = 0; row < rows_; ++row) {
    carry(row);
    for (size_t i = cell(row, 0); i < cell(row + 1, 0); ++i) {
      int64_t high = other.high_[i], low = other.low_[i];
      carry_cell(high, low);
      high_[i] += high;
      low_[i] += low;
      carry_cell(high_[i], low_[i]);
    }
  }
  out_of_range_ += other.out_of_range_;
}

void ExactTable::clear() {
  std::fill(high_.begin(), high_.end(), 0);
  std::fill(low_.begin(), low_.end(), 0);
  std::fill(pending_.begin(), pending_.end(), 0);
  out_of_range_ = 0;
}

double ExactTable::value(int64_t row, int64_t column) const {
  const size_t i = cell(row, column);
  const Int128 total = static_cast<Int128>(high_[i]) * (Int128{1} << kCarryBits) + low_[i];
  return std::ldexp(static_cast<double>(total), -kExactFractionBits);
}

std::vector<double> ExactTable::values() const {
  std::vector<double> values;
  values.reserve(high_.size());
  for (int64_t row = 0; row < rows_; ++row) {
    for (int64_t column = 0; column < width_; ++column) values.push_back(value(row, column));
  }
  return values;
}

void ExactTable::save(ByteSink& sink) const {
  ExactTable carried = *this;
  for (int64_t row = 0; row < rows_; ++row) carried.carry(row);
  sink.integer(rows_);
  sink.integer(width_);
  sink.integer(out_of_range_);
  sink.values(carried.high_);
  sink.values(carried.low_);
}

void ExactTable::load(ByteSource& source) {
  if (source.integer() != rows_ || source.integer() != width_) ByteSource::refuse();
  clear();
  out_of_range_ = source.integer();
  high_ = source.values<int64_t>(high_.size());
  low_ = source.values<int64_t>(low_.size());
  for (size_t i = 0; i < high_.size(); ++i) {
    const bool fits = low_[i] >= 0 && low_[i] <= kLowMask && high_[i] <= kHighLimit && high_[i] >= -kHighLimit;
    if (!fits) ByteSource::refuse();
  }
}

}  // namespace moetap::analysis::studies
