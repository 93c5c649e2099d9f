#include "analysis/studies/pattern_sums.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <stdexcept>

#include "analysis/numbers/exact_sum.h"

namespace moetap::analysis::studies {
namespace {

constexpr int kFractionBits = 48;
constexpr int kCarryBits = 51;
constexpr double kTermLimit = 8;  // 2^(kCarryBits - kFractionBits)
constexpr int32_t kMaxRows = 1 << 11;
constexpr int64_t kLowMask = (int64_t{1} << kCarryBits) - 1;
constexpr double kRounder = 0x1.8p4;  // 1.5 * 2^(52 - kFractionBits)

}  // namespace

PatternSums::PatternSums(int64_t num_experts, int64_t length)
    : num_experts_(num_experts),
      length_(length),
      low_(static_cast<size_t>(num_experts * length * length)),
      pending_(static_cast<size_t>(num_experts * length)) {}

void PatternSums::carry(size_t line) {
  if (high_.empty()) high_.resize(low_.size());
  const size_t begin = line * static_cast<size_t>(length_);
  for (size_t i = begin; i < begin + static_cast<size_t>(length_); ++i) {
    high_[i] += low_[i] >> kCarryBits;
    low_[i] &= kLowMask;
  }
  pending_[line] = 0;
}

template <typename T>
void PatternSums::add(int64_t expert, int64_t line, double gate, const T* row, int64_t num_keys) {
  int64_t outside = 0;
  for (int64_t j = 0; j < num_keys; ++j) outside += !(std::abs(gate * static_cast<double>(row[j])) < kTermLimit);
  if (outside > 0) {
    ++out_of_range_rows_;
    return;
  }
  const size_t place = line_of(expert, line);
  if (++pending_[place] >= kMaxRows) carry(place);
  int64_t* __restrict sums = low_.data() + place * static_cast<size_t>(length_);
  for (int64_t j = 0; j < num_keys; ++j) {
    const double rounded = gate * static_cast<double>(row[j]) + kRounder;
    sums[j] += std::bit_cast<int64_t>(rounded) - std::bit_cast<int64_t>(kRounder);
  }
}

template void PatternSums::add(int64_t, int64_t, double, const float*, int64_t);
template void PatternSums::add(int64_t, int64_t, double, const double*, int64_t);

void PatternSums::merge(const PatternSums& other) {
  if (num_experts_ != other.num_experts_ || length_ != other.length_) {
    throw std::runtime_error("patterns of arrays of different lengths cannot be merged");
  }
  for (size_t line = 0; line < pending_.size(); ++line) {
    if (pending_[line] + other.pending_[line] + 1 >= kMaxRows) carry(line);
    const size_t begin = line * static_cast<size_t>(length_);
    for (size_t i = begin; i < begin + static_cast<size_t>(length_); ++i) low_[i] += other.low_[i];
    pending_[line] += other.pending_[line] + 1;
  }
  if (!other.high_.empty()) {
    if (high_.empty()) high_.resize(low_.size());
    for (size_t i = 0; i < high_.size(); ++i) high_[i] += other.high_[i];
  }
  out_of_range_rows_ += other.out_of_range_rows_;
}

void PatternSums::save(ByteSink& sink) const {
  PatternSums carried = *this;
  for (size_t line = 0; line < pending_.size(); ++line) carried.carry(line);
  sink.integer(num_experts_);
  sink.integer(length_);
  sink.integer(out_of_range_rows_);
  sink.values(carried.low_);
  sink.values(carried.high_);
}

void PatternSums::load(ByteSource& source) {
  const int64_t num_experts = source.integer(), length = source.integer(), out_of_range_rows = source.integer();
  const std::vector<int64_t> low = source.values<int64_t>();
  const bool fits = num_experts == num_experts_ && length >= 0 && length < (int64_t{1} << 20) &&
                    static_cast<size_t>(num_experts * length * length) == low.size();
  if (!fits || std::any_of(low.begin(), low.end(), [](int64_t x) { return x < 0 || x > kLowMask; })) {
    ByteSource::refuse();
  }
  *this = PatternSums(num_experts, length);
  low_ = low;
  high_ = source.values<int64_t>();
  if (!high_.empty() && high_.size() != low_.size()) ByteSource::refuse();
  out_of_range_rows_ = out_of_range_rows;
}

double PatternSums::value(int64_t expert, int64_t line, int64_t key) const {
  const size_t i = line_of(expert, line) * static_cast<size_t>(length_) + static_cast<size_t>(key);
  Int128 total = low_[i];
  if (!high_.empty()) total += static_cast<Int128>(high_[i]) * (Int128{1} << kCarryBits);
  return std::ldexp(static_cast<double>(total), -kFractionBits);
}

}  // namespace moetap::analysis::studies
