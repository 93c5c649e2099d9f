#include "analysis/attention/attention_masks.h"

#include <algorithm>
#include <limits>

namespace moetap::analysis {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

}  // namespace

void BlockMasks::prepare(int64_t sequence, int64_t head, std::span<const int64_t> rows, int64_t pitch,
                         const SequenceKeys& keys) {
  used_ = 0;
  valid_.clear();
  padding_.clear();
  for (const KeyTile& tile : keys.valid()) valid_.push_back(make(sequence, head, rows, pitch, tile));
  for (const KeyTile& tile : keys.padding()) padding_.push_back(make(sequence, head, rows, pitch, tile));
}

int64_t BlockMasks::bytes() const {
  int64_t floats = 0;
  for (const std::vector<float>& buffer : buffers_) floats += static_cast<int64_t>(buffer.capacity());
  return floats * static_cast<int64_t>(sizeof(float));
}

float* BlockMasks::next_buffer(int64_t pitch) {
  if (used_ == buffers_.size()) buffers_.emplace_back();
  std::vector<float>& buffer = buffers_[used_++];
  buffer.assign(static_cast<size_t>(kTileKeys * pitch), 0.0F);
  return buffer.data();
}

MaskedTile BlockMasks::make(int64_t sequence, int64_t head, std::span<const int64_t> rows, int64_t pitch,
                            const KeyTile& tile) {
  MaskedTile result;
  const auto num_rows = static_cast<int64_t>(rows.size()), num_keys = static_cast<int64_t>(tile.places.size());
  const int64_t first_key = tile.places.front(), last_key = tile.places.back();
  int64_t first_row = 0;  // that sees a key
  if (causal_) first_row = std::lower_bound(rows.begin(), rows.end(), first_key) - rows.begin();
  if (first_row == num_rows) {
    result.closed = true;
    return result;
  }
  result.first_lane = first_row / kLaneGroup * kLaneGroup;
  const bool causal = causal_ && rows[result.first_lane] < last_key;  // hides a key from a lane
  if (!causal && plane_.data == nullptr) return result;

  float* mask = next_buffer(pitch);
  if (plane_.data != nullptr) {
    gather_tile(plane_, sequence, head, {rows.data(), num_rows, tile.places.data(), num_keys}, pitch, mask);
  }
  if (causal) {
    for (int64_t j = 0; j < num_keys; ++j) {
      const int64_t sees = std::lower_bound(rows.begin(), rows.end(), tile.places[j]) - rows.begin();
      std::fill_n(mask + j * pitch, sees, kMinusInfinity);
    }
  }
  result.mask = mask;
  if (plane_.data == nullptr) return result;
  bool is_zero = true, is_closed = true;
  result.largest = kMinusInfinity;
  for (int64_t j = 0; j < num_keys; ++j) {
    for (int64_t r = 0; r < num_rows; ++r) {
      const float value = mask[j * pitch + r];
      result.largest = std::max(result.largest, value);
      is_zero &= value == 0;
      is_closed &= value == kMinusInfinity;  // false for NaN
    }
  }
  result.closed = is_closed;
  if (is_zero || is_closed) {
    --used_;
    result.mask = nullptr;
  }
  return result;
}

}  // namespace moetap::analysis
