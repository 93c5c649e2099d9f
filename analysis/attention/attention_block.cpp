#include "analysis/attention/attention_block.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moetap::analysis {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kBeyond = std::numeric_limits<float>::max();  // as shift: all probabilities of the lane are 0
// Of a row's sum of probabilities from 1, on the way by tiles. The log-sum-exp of LibTorch's kernel is good to 1e-6,
// and for half precision, where its sums are of rounded terms, to 1e-4.
constexpr double kMassTolerance = 2e-5, kMassToleranceOfHalf = 1e-3;
constexpr float kNegligible = -1000;  // a mask that leaves nothing of a key, as a rule

}  // namespace

void AttentionBlock::begin(const HostAttentionCall& call, int64_t num_regions, bool matrix) {
  call_ = &call;
  num_regions_ = num_regions;
  with_matrix_ = matrix;
  scores_.begin(call);
  row_scores_.begin(call);
  heads_.resize(static_cast<size_t>(call.shape.num_heads));
  values_.resize(static_cast<size_t>(num_attention_columns(num_regions)));
  bins_.resize(static_cast<size_t>(kNumAttentionBins));
}

int64_t AttentionBlock::bytes() const {
  const size_t floats = tiles_of_scores_.capacity() + mean_.capacity() + matrix_.capacity();
  return static_cast<int64_t>(floats * sizeof(float) + received_.capacity() * sizeof(double) +
                              heads_.capacity() * sizeof(Head)) +
         scores_.bytes() + row_scores_.bytes();
}

AttentionTile AttentionBlock::tile_of(const KeyTile& keys, const MaskedTile& mask) const {
  return {pitch_, pitch_ - mask.first_lane, static_cast<int64_t>(keys.places.size())};
}

void AttentionBlock::clear() {
  const auto clear_lanes = [this](OfLanes<double>& lanes) { std::fill_n(lanes.of, pitch_, 0.0); };
  for (Head& head : heads_) {
    for (OfLanes<double>* lanes : {&head.mass, &head.first, &head.products, &head.distance}) clear_lanes(*lanes);
    std::fill_n(head.largest.of, kBlockRows, -kInfinity);
    for (OfLanes<double>& terms : head.terms) clear_lanes(terms);
  }
  for (OfLanes<double>& value : values_) clear_lanes(value);
  for (OfLanes<double>& bin : bins_) clear_lanes(bin);
  heads_with_keys_ = {};
  std::fill_n(line_, num_rows_, kRow);
  received_.assign(static_cast<size_t>(keys_->num_valid()), 0);
  const int64_t floats = num_tiles() * floats_of_tile();
  if (with_matrix_) matrix_.assign(static_cast<size_t>(floats), 0.0F);
}

void AttentionBlock::measure(const BlockRows& rows, const SequenceKeys& keys) {
  rows_ = &rows;
  keys_ = &keys;
  num_rows_ = rows.size;
  pitch_ = rows.pitch();
  position_ = {};
  for (int64_t lane = 0; lane < num_rows_; ++lane) position_.of[lane] = static_cast<float>(rows.position[lane]);
  clear();
  if (rows.by_keys) {
    measure_by_keys();
  } else {
    scores_.start(rows, keys);
    const bool by_tiles = has_log_sums();
    if (!by_tiles || !measure_by_tiles()) {
      if (by_tiles) clear();
      measure_by_heads();
    }
  }
  if (call_->scores.data != nullptr) read_largest_scores();
  finish_rows();
}

/// Whether it looks as if the way by tiles could be gone.
bool AttentionBlock::has_log_sums() const {
  if (call_->log_sum_exp.data == nullptr || !scores_.masks_are_shared()) return false;
  for (size_t tile = 0; tile < keys_->padding().size(); ++tile) {
    const MaskedTile& mask = scores_.masks().padding(static_cast<int64_t>(tile));
    if (!mask.closed && (mask.mask == nullptr || mask.largest > kNegligible)) return false;
  }
  return true;
}

bool AttentionBlock::measure_by_tiles() {
  const int64_t num_heads = call_->shape.num_heads;
  log_sum_ = {};
  shifts_.resize(static_cast<size_t>(num_heads));
  for (int64_t head = 0; head < num_heads; ++head) {
    std::fill_n(shifts_[head].of, kBlockRows, kBeyond);
    for (int64_t lane = 0; lane < num_rows_; ++lane) {
      float& shift = shifts_[head].of[lane];
      __builtin_memcpy(&shift, call_->log_sum_exp.at(rows_->sequence, head, rows_->place[lane], 0), sizeof(shift));
      if (!std::isfinite(shift)) return false;
    }
  }
  tiles_of_scores_.resize(static_cast<size_t>(floats_of_tile()));
  mean_.resize(static_cast<size_t>(floats_of_tile()));
  for (int64_t tile = 0; tile < num_tiles(); ++tile) {
    const MaskedTile& mask = scores_.masks().valid(tile);
    if (mask.closed) continue;
    float* mean = with_matrix_ ? matrix_.data() + tile * floats_of_tile() : mean_.data();
    std::fill_n(mean, floats_of_tile(), 0.0F);
    for (int64_t head = 0; head < num_heads; ++head) {
      shift_ = shifts_[head];
      scores_.make(head, keys_->valid()[tile], mask, tiles_of_scores_.data());
      attend(tile, tiles_of_scores_.data(), heads_[head], mean, nullptr);
    }
    add_tile(tile, mean);
  }
  const bool is_half = call_->query.item_size < 4 || call_->key.item_size < 4;
  const double tolerance = is_half ? kMassToleranceOfHalf : kMassTolerance;
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t lane = 0; lane < num_rows_; ++lane) {
      const double mass = heads_[head].mass.of[lane] + heads_[head].first.of[lane];
      if (!(std::abs(mass - 1) <= tolerance)) return false;
      mass_.of[lane] = static_cast<float>(mass);
    }
    shift_ = shifts_[head];
    finish_head(heads_[head]);
  }
  return true;
}

void AttentionBlock::measure_by_heads() {
  const int64_t num_heads = call_->shape.num_heads, floats = num_tiles() * floats_of_tile();
  // Behind the tiles of valid keys, one for padding.
  tiles_of_scores_.resize(static_cast<size_t>(floats + floats_of_tile()));
  mean_.assign(static_cast<size_t>(floats), 0.0F);
  for (int64_t head = 0; head < num_heads; ++head) {
    scores_.start_head(head);
    add_softmax(head);
    for (int64_t tile = 0; tile < num_tiles(); ++tile) {
      const int64_t offset = tile * floats_of_tile();
      if (scores_.masks().valid(tile).closed) continue;
      attend(tile, tiles_of_scores_.data() + offset, heads_[head], mean_.data() + offset,
             with_matrix_ ? matrix_.data() + offset : nullptr);
    }
    finish_head(heads_[head]);
  }
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    if (line_[lane] != kNotFiniteRow) continue;
    for (int64_t key = 0; key < num_tiles() * kTileKeys; ++key) mean_[key * pitch_ + lane] = 0;
  }
  // A mask of one head may close what another sees; the sums take all lanes then.
  scores_.start_head(0);
  for (int64_t tile = 0; tile < num_tiles(); ++tile) {
    if (scores_.masks_are_shared() && scores_.masks().valid(tile).closed) continue;
    add_tile(tile, mean_.data() + tile * floats_of_tile());
  }
}

/// Scores of all tiles of a head, and what makes probabilities of them.
void AttentionBlock::add_softmax(int64_t head) {
  OfLanes<float> largest;
  OfLanes<double> sum;
  std::fill_n(largest.of, kBlockRows, -kInfinity);
  const auto add = [&](const KeyTile& keys, const MaskedTile& mask, float* scores) {
    if (mask.closed) return;
    scores_.make(head, keys, mask, scores);
    const int64_t lane = mask.first_lane;
    kernels_.softmax(tile_of(keys, mask), scores + lane, largest.of + lane, sum.of + lane);
  };
  for (int64_t tile = 0; tile < num_tiles(); ++tile) {
    add(keys_->valid()[tile], scores_.masks().valid(tile), tiles_of_scores_.data() + tile * floats_of_tile());
  }
  const OfLanes<float> largest_of_valid = largest;
  const OfLanes<double> sum_of_valid = sum;
  const bool is_given = call_->probabilities.data != nullptr;
  for (size_t tile = 0; tile < keys_->padding().size() && !is_given; ++tile) {
    add(keys_->padding()[tile], scores_.masks().padding(static_cast<int64_t>(tile)),
        tiles_of_scores_.data() + num_tiles() * floats_of_tile());
  }
  for (int64_t lane = 0; lane < kBlockRows; ++lane) {
    const double valid = sum_of_valid.of[lane], all = sum.of[lane];
    const float top = largest_of_valid.of[lane];
    shift_.of[lane] = kBeyond;
    log_sum_.of[lane] = mass_.of[lane] = 0;
    if (lane >= num_rows_) continue;
    const bool is_finite = std::isfinite(all) && top < kInfinity && largest.of[lane] < kInfinity;
    if (!is_finite && is_given && is_masked(head, lane)) {
      for (int64_t key = 0; key < num_tiles() * kTileKeys; ++key) tiles_of_scores_[key * pitch_ + lane] = -kInfinity;
      continue;
    }
    if (!is_finite) line_[lane] = kNotFiniteRow;
    if (!is_finite || !(valid > 0)) continue;
    shift_.of[lane] = top;
    log_sum_.of[lane] = static_cast<float>(std::log(valid));
    mass_.of[lane] = static_cast<float>(is_given ? valid * std::exp(static_cast<double>(top))
                                                 : valid / all * std::exp(static_cast<double>(top - largest.of[lane])));
  }
}

/// Adds the probabilities of a tile.
void AttentionBlock::attend(int64_t tile, const float* scores, Head& head, float* mean, float* raw) {
  const KeyTile& keys = keys_->valid()[tile];
  const MaskedTile& mask = scores_.masks().valid(tile);
  const int64_t lane = mask.first_lane;
  const auto attend_keys = [&](int64_t begin, int64_t end, OfLanes<double>& mass) {
    AttentionTile part = tile_of(keys, mask);
    part.keys = end - begin;
    const int64_t offset = begin * pitch_ + lane;
    kernels_.attend(part, scores + offset, shift_.of + lane, log_sum_.of + lane, position_.of + lane,
                    keys.positions + begin,
                    HeadLanes{mass.of + lane, head.products.of + lane, head.distance.of + lane, head.largest.of + lane},
                    mean + offset, raw == nullptr ? nullptr : raw + offset, mass_.of + lane);
  };
  for (size_t run = 0; run < keys.runs.size();) {
    size_t end = run + 1;
    while (end < keys.runs.size() && keys.runs[end].first == keys.runs[run].first) ++end;
    attend_keys(keys.runs[run].begin, keys.runs[end - 1].end, keys.runs[run].first ? head.first : head.mass);
    run = end;
  }
}

/// The row values that are means over heads of what is not linear in p.
void AttentionBlock::finish_head(Head& head) {
  const double share = 1.0 / static_cast<double>(call_->shape.num_heads);
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    const double mass =
        head.mass.of[lane] + head.first.of[lane];  // of what was made, on the way by heads always near 1
    if (line_[lane] == kNotFiniteRow || !(mass > 0)) continue;
    ++heads_with_keys_.of[lane];
    const double log_of_largest = static_cast<double>(head.largest.of[lane] - shift_.of[lane]) - log_sum_.of[lane];
    head.terms[kHeadEntropy].of[lane] = std::max(0.0, std::log(mass) - head.products.of[lane] / mass);
    head.terms[kHeadDistance].of[lane] = head.distance.of[lane] / mass;
    head.terms[kHeadFirst].of[lane] = head.first.of[lane] / mass;
    values_[kEntropy].of[lane] += share * head.terms[kHeadEntropy].of[lane];
    values_[kMaxWeight].of[lane] += share * std::min(1.0, std::exp(log_of_largest) / mass);
    values_[kKeyMass].of[lane] += share * mass_.of[lane];
  }
}

/// Adds what is linear in p, of the sum over heads.
void AttentionBlock::add_tile(int64_t tile, const float* mean) {
  const KeyTile& keys = keys_->valid()[tile];
  MaskedTile mask;
  if (scores_.masks_are_shared()) mask = scores_.masks().valid(tile);
  const AttentionTile whole = tile_of(keys, mask);
  const int64_t lane = mask.first_lane;
  kernels_.distances(whole, mean + lane, position_.of + lane, keys.positions,
                     static_cast<float>(keys_->num_valid() / 2),
                     DistanceLanes{values_[kDistance].of + lane, values_[kSelf].of + lane, values_[kDiagonal].of + lane,
                                   values_[kFar].of + lane});
  float sums[kTileKeys];
  kernels_.sum_lanes(whole, mean + lane, sums);
  for (int64_t j = 0; j < whole.keys; ++j) received_[tile * kTileKeys + j] += sums[j];

  for (const KeyRun& run : keys.runs) {
    AttentionTile part = whole;
    part.keys = run.end - run.begin;
    OfLanes<float> of_run;
    kernels_.sum_keys(part, mean + run.begin * pitch_ + lane, of_run.of + lane);
    const auto add = [&](OfLanes<double>& to) {
      for (int64_t i = lane; i < pitch_; ++i) to.of[i] += of_run.of[i];
    };
    add(values_[region_column(run.region)]);
    add(bins_[run.bin]);
    if (run.first) add(values_[kFirst]);
    if (run.last) add(values_[kLast]);
    if (run.first_quarter) add(bins_[kFirstQuarter]);
    if (run.last_quarter) add(bins_[kLastQuarter]);
  }
}

void AttentionBlock::finish_rows() {
  const double share = 1.0 / static_cast<double>(call_->shape.num_heads);
  const auto scale = [&](OfLanes<double>& sums) {
    for (int64_t lane = 0; lane < num_rows_; ++lane) sums.of[lane] *= share;
  };
  for (const int64_t column : {kDistance, kSelf, kDiagonal, kFar, kFirst, kLast}) scale(values_[column]);
  for (int64_t region = 0; region < num_regions_; ++region) scale(values_[region_column(region)]);
  for (OfLanes<double>& bin : bins_) scale(bin);
  for (double& value : received_) value *= share;
  const auto n = static_cast<double>(keys_->num_valid());
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    if (line_[lane] == kRow && heads_with_keys_.of[lane] == 0) line_[lane] = kEmptyRow;
    if (line_[lane] != kRow) continue;
    const int64_t i = rows_->position[lane], half = keys_->num_valid() / 2;
    const int64_t near = keys_->count(i - kDiagonalWidth, i + kDiagonalWidth);
    values_[kDiagonalExpected].of[lane] = static_cast<double>(near) / n;
    values_[kFarExpected].of[lane] = 1 - static_cast<double>(keys_->count(i - half, i + half)) / n;
  }
}

/// Whether the softmax read nothing but -inf, of which it makes NaN.
bool AttentionBlock::is_masked(int64_t head, int64_t lane) const {
  if (call_->scores.data == nullptr) return false;
  for (int64_t key = 0; key < call_->shape.num_keys; ++key) {
    float score = 0;
    gather_tile(call_->scores, rows_->sequence, head, {&rows_->place[lane], 1, &key, 1}, 1, &score);
    if (score != -kInfinity) return false;
  }
  return true;
}

/// Where probabilities are given, the scores they were made of.
void AttentionBlock::read_largest_scores() {
  tiles_of_scores_.resize(std::max(tiles_of_scores_.size(), static_cast<size_t>(floats_of_tile())));
  for (int64_t head = 0; head < call_->shape.num_heads; ++head) {
    OfLanes<float>& largest = heads_[head].largest;
    std::fill_n(largest.of, kBlockRows, -kInfinity);
    if (rows_->by_keys) {
      largest.of[0] = kernels_.of_row.largest(row_scores_.num_valid(), row_scores_.read(call_->scores, head));
      continue;
    }
    for (const KeyTile& keys : keys_->valid()) {
      float* tile = tiles_of_scores_.data();
      scores_.read(call_->scores, head, keys, tile);
      for (size_t j = 0; j < keys.places.size(); ++j) {
        for (int64_t lane = 0; lane < num_rows_; ++lane) {
          largest.of[lane] = std::max(largest.of[lane], tile[static_cast<int64_t>(j) * pitch_ + lane]);
        }
      }
    }
  }
}

}  // namespace moetap::analysis
