#pragma once

#include "analysis/attention/attention_kernel_values.cuh"
#include "analysis/attention/attention_rows.h"

// Behind the passes: the values of the lines. A warp owns a line; its lanes share the tiles of keys, of which few are
// looked into.
namespace moetap::analysis::attention_kernel {

class LineFinish {
 public:
  MOETAP_DEVICE explicit LineFinish(const AttentionKernelArguments& call)
      : call_(call),
        line_(warp::block() * (warp::threads_of_block() / 32) + warp::warp_of_block()),
        sequence_(line_ / (call.num_queries > 0 ? call.num_queries : 1)) {}

  MOETAP_DEVICE void run() const {
    if (line_ >= call_.num_lines) return;
    // Read once for all lanes: the line is written below.
    const bool asked = warp::from_lane(static_cast<int32_t>(call_.line[line_]), 0) == kRow;
    const int32_t state = call_.state[line_];
    const bool is_row = asked && state == kSeesKeys;
    if (asked && !is_row && warp::lane() == 0) {
      call_.line[line_] = (state & kIsNotFinite) != 0 ? kNotFiniteRow : kEmptyRow;
    }
    const int32_t columns = static_cast<int32_t>(num_attention_columns(call_.num_regions));
    float* values = call_.values + line_ * columns;
    float* bins = call_.bins + line_ * kNumAttentionBins;
    for (int32_t c = warp::lane(); c < columns; c += 32) values[c] = is_row ? value(c) : 0;
    for (int32_t b = warp::lane(); b < kNumAttentionBins; b += 32)
      bins[b] = is_row ? sum(kColumnWords + kBinColumns + b) : 0;
    if (is_row) write_of_keys(values);
  }

 private:
  MOETAP_DEVICE float sum(int32_t word) const { return from_units(call_.row_words[line_ * kNumRowWords + word]); }

  /// What follows from the sums; 0 for what does not.
  MOETAP_DEVICE float value(int32_t column) const {
    switch (column) {
      case kEntropy:
        return sum(kEntropyWord);
      case kMaxWeight:
        return sum(kMaxWeightWord);
      case kKeyMass:
        return sum(kKeyMassWord);
      case kDistance:
        return sum(kDistanceWord);
      case kSelf:
        return call_.self ? sum(kSelfWord) : 0;
      case kDiagonal:
        return sum(kDiagonalWord);
      case kFar:
        return sum(kFarWord);
      case kFirst:
        return sum(kColumnWords + kFirstColumn);
      case kLast:
        return sum(kColumnWords + kLastColumn);
      default:
        break;
    }
    const int32_t region = column - static_cast<int32_t>(kFirstRegion);
    return region >= 0 && region < call_.num_regions ? sum(kColumnWords + kRegionColumns + region) : 0;
  }

  /// What depends on which keys there are: the expected shares, and what the query receives as a key.
  MOETAP_DEVICE void write_of_keys(float* values) const {
    const int32_t query = static_cast<int32_t>(line_ - sequence_ * call_.num_queries);
    const int32_t position = call_.query_position.at(sequence_, query), half = call_.rows_num_keys[line_] / 2;
    int32_t near = 0, within = 0;  // keys up to kDiagonalWidth, up to n div 2 away
    int64_t received = 0;
    for (int32_t i = warp::lane(); i < call_.key_tiles; i += 32) {
      const AttentionKeyTile& tile = call_.tiles[sequence_ * call_.key_tiles + i];
      if (tile.num_valid == 0) continue;
      const int32_t before = position - tile.first, behind = tile.last - position;
      const int32_t farthest = before > behind ? before : behind;
      const int32_t nearest = before < 0 ? -before : behind < 0 ? -behind : 0;
      if (farthest <= half && nearest > kDiagonalWidth) {
        within += tile.num_valid;
      } else if (nearest <= half || nearest <= kDiagonalWidth) {
        count_keys(i, position, half, near, within, received);
      }
    }
    for (int mask = 16; mask > 0; mask /= 2) {
      near += warp::from_lane_xor(near, mask);
      within += warp::from_lane_xor(within, mask);
      received += warp::from_lane_xor(received, mask);
    }
    if (warp::lane() != 0) return;
    const auto n = static_cast<float>(call_.rows_num_keys[line_]);
    values[kDiagonalExpected] = static_cast<float>(near) / n;
    values[kFarExpected] = (n - static_cast<float>(within)) / n;
    if (call_.self) {
      values[received_column(call_.num_regions)] =
          static_cast<float>(call_.weight[sequence_] * static_cast<double>(from_units(received)));
    }
  }

  MOETAP_DEVICE void count_keys(int32_t tile, int32_t position, int32_t half, int32_t& near, int32_t& within,
                                int64_t& received) const {
    const AttentionKey* keys = call_.keys + (sequence_ * call_.key_tiles + tile) * kKeysOfTile;
    for (int32_t i = 0; i < kKeysOfTile; ++i) {
      const auto of_key = static_cast<int32_t>(keys[i].position);
      if (of_key < 0) continue;
      const int32_t away = of_key < position ? position - of_key : of_key - position;
      near += away <= kDiagonalWidth;
      within += away <= half;
      if (away == 0) received += call_.received[sequence_ * call_.num_keys + tile * kKeysOfTile + i];
    }
  }

  const AttentionKernelArguments& call_;
  const int64_t line_, sequence_;
};

}  // namespace moetap::analysis::attention_kernel
