#include "analysis/studies/row_ranks.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace moetap::analysis::studies {
namespace {

constexpr int kBits = 49, kSumBits = 31;

}  // namespace

RowRanks::RowRanks(std::vector<double> table, size_t width, size_t most_rows)
    : width_(width), coarse_width_((width + kLanes - 1) / kLanes * kLanes), table_(std::move(table)) {
  const int dropped = kBits - kSumBits + static_cast<int>(std::bit_width(most_rows));
  const size_t rows = width == 0 ? 0 : table_.size() / width;
  coarse_.resize(rows * coarse_width_);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < width; ++i) {
      coarse_[row * coarse_width_ + i] =
          static_cast<uint32_t>(static_cast<uint64_t>(table_[row * width + i]) >> dropped);
    }
  }
}

int64_t RowRanks::count_named(std::span<const int32_t> rows, std::span<const int32_t> sought, int64_t top_k,
                              Sums& sums) const {
  sums.coarse.resize(coarse_width_);
  loops_->add_whole_rows(coarse_.data(), rows, coarse_width_, sums.coarse.data());
  const auto slack = static_cast<uint32_t>(std::max<size_t>(rows.size(), 1));
  int64_t named = 0;
  bool has_exact = false;
  for (const int32_t column : sought) {
    const uint32_t sum = sums.coarse[static_cast<size_t>(column)];
    const uint32_t may_be_larger = sum < slack ? 0 : sum - slack + 1;
    if (loops_->count_from(sums.coarse.data(), coarse_width_, may_be_larger) <= top_k) {  // itself among them
      ++named;
      continue;
    }
    if (loops_->count_from(sums.coarse.data(), coarse_width_, sum + slack) >= top_k) continue;
    if (!std::exchange(has_exact, true)) {
      sums.exact.resize(width_);
      loops_->add_rows(table_.data(), rows, width_, sums.exact.data());
    }
    named += loops_->rank_of(sums.exact.data(), width_, static_cast<size_t>(column)) < top_k;
  }
  return named;
}

}  // namespace moetap::analysis::studies
