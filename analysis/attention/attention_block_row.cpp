// The way of one row through a block: Note [A row by its keys].
#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/attention/attention_block.h"

namespace moetap::analysis {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();  // a difference of infinities would be NaN

}  // namespace

void AttentionBlock::measure_by_keys() {
  mean_.assign(static_cast<size_t>(num_tiles() * kTileKeys), 0.0F);
  row_scores_.start(rows_->sequence, rows_->place[0], *keys_);
  for (int64_t head = 0; head < call_->shape.num_heads;) {
    const int64_t made = row_scores_.make(head);
    for (int64_t i = 0; i < made; ++i) add_row_of_head(head + i, row_scores_.valid(i), row_scores_.padding(i));
    head += made;
  }
  if (line_[0] != kNotFiniteRow) add_row();
}

/// Makes probabilities of the scores, and adds them.
void AttentionBlock::add_row_of_head(int64_t number, float* scores, float* padding) {
  const AttentionRowKernels& kernels = kernels_.of_row;
  const int64_t num_keys = row_scores_.num_valid(), num_padding = row_scores_.num_padding();
  const bool is_given = call_->probabilities.data != nullptr;
  const float top = kernels.largest(num_keys, scores);
  const float top_of_all = std::max(top, kernels.largest(num_padding, padding));
  const ExponentialSums sums =
      kernels.exponentials(num_keys, scores, std::max(top, kLowest), position_.of[0], keys_->positions());
  // Padding has no positions: what is read as such is of no use.
  const double of_padding = kernels.exponentials(num_padding, padding, std::max(top_of_all, kLowest), 0, padding).sum;
  const double of_valid = top > -kInfinity ? sums.sum * std::exp(static_cast<double>(top) - top_of_all) : sums.sum;
  const double all = of_valid + of_padding;
  const bool is_finite = std::isfinite(all) && top_of_all < kInfinity;
  if (!is_finite && is_given && is_masked(number, 0)) return;
  if (!is_finite) line_[0] = kNotFiniteRow;
  if (!is_finite || !(sums.sum > 0)) return;

  Head& head = heads_[number];
  shift_.of[0] = head.largest.of[0] = top;
  log_sum_.of[0] = 0;
  const double mass = is_given ? sums.sum * std::exp(static_cast<double>(top)) : of_valid / all;
  mass_.of[0] = static_cast<float>(mass);
  for (int64_t position = 0; position < kEndKeys; ++position) {
    keys_->each_at(position, [&](int64_t key) { head.first.of[0] += scores[key]; });
  }
  head.mass.of[0] = sums.sum - head.first.of[0];
  head.products.of[0] = sums.products;
  head.distance.of[0] = sums.distance;
  kernels.add_scaled(num_keys, scores, static_cast<float>(1 / sums.sum), mean_.data());
  if (with_matrix_) kernels.add_scaled(num_keys, scores, static_cast<float>(mass / sums.sum), matrix_.data());
  finish_head(head);
}

/// Adds what is linear in p, of the sum over heads.
void AttentionBlock::add_row() {
  const float* mean = mean_.data();
  const auto half = static_cast<float>(keys_->num_valid() / 2);
  const DistanceSums sums =
      kernels_.of_row.distances(row_scores_.num_valid(), mean, position_.of[0], keys_->positions(), half);
  values_[kDistance].of[0] = sums.distance;
  values_[kSelf].of[0] = sums.self;
  values_[kDiagonal].of[0] = sums.diagonal;
  values_[kFar].of[0] = sums.far;
  std::copy_n(mean, keys_->num_valid(), received_.begin());
  for (const KeyTile& tile : keys_->valid()) {
    for (const KeyRun& run : tile.runs) {
      const double mass = kernels_.of_row.sum(run.end - run.begin, mean + run.begin);
      values_[region_column(run.region)].of[0] += mass;
      bins_[run.bin].of[0] += mass;
      if (run.first) values_[kFirst].of[0] += mass;
      if (run.last) values_[kLast].of[0] += mass;
      if (run.first_quarter) bins_[kFirstQuarter].of[0] += mass;
      if (run.last_quarter) bins_[kLastQuarter].of[0] += mass;
    }
    mean += kTileKeys;
  }
}

}  // namespace moetap::analysis
