#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "analysis/attention/attention_kernels.h"

namespace moetap::analysis {

struct AttentionTokens;

/// Keys of a tile that follow each other and count for the same sums.
struct KeyRun {
  int64_t begin = 0, end = 0;  // in the tile
  int64_t region = 0, bin = 0;
  bool first = false, last = false;                  // of the first, of the last kEndKeys keys
  bool first_quarter = false, last_quarter = false;  // see kNumAttentionBins

  bool counts_as(const KeyRun& other) const {
    return region == other.region && bin == other.bin && first == other.first && last == other.last &&
           first_quarter == other.first_quarter && last_quarter == other.last_quarter;
  }
};

/// Keys of a sequence that are taken at once: all tiles but the last have kTileKeys. Points into SequenceKeys.
struct KeyTile {
  std::span<const int64_t> places;   // their numbers in the tensor, ascending
  const float* positions = nullptr;  // of keys that are valid, beside `places`
  std::span<const KeyRun> runs;      // of keys that are valid

  /// They lie behind each other in the tensor.
  bool are_consecutive() const { return places.back() - places.front() == static_cast<int64_t>(places.size()) - 1; }
};

/// The keys of one sequence. Valid keys fill tiles of their own, so that a valid key's tile does not depend on padding.
class SequenceKeys {
 public:
  /// positions: int32 [num_keys], -1 for padding; regions: uint8 [num_keys]; null: parts of the positions.
  SequenceKeys(const int32_t* positions, const uint8_t* regions, int64_t num_keys, int64_t num_regions);
  // Tiles point into it.
  SequenceKeys(SequenceKeys&&) = default;
  SequenceKeys(const SequenceKeys&) = delete;
  SequenceKeys& operator=(const SequenceKeys&) = delete;
  SequenceKeys& operator=(SequenceKeys&&) = delete;
  ~SequenceKeys() = default;

  int64_t num_valid() const { return static_cast<int64_t>(sorted_.size()); }
  std::span<const KeyTile> valid() const { return {tiles_.data(), num_valid_tiles_}; }
  std::span<const KeyTile> padding() const { return std::span(tiles_).subspan(num_valid_tiles_); }
  /// Of valid keys, in the order of the tiles; with zeros behind them up to a multiple of kLaneGroup.
  const float* positions() const { return positions_.data(); }

  /// Valid keys whose position is in [first, last].
  int64_t count(int64_t first, int64_t last) const;
  /// Calls function(number of the key among the valid ones, in the order of the tiles) for keys at the position.
  template <typename Function>
  void each_at(int64_t position, const Function& function) const {
    for (int64_t i = lower_bound(position); i < num_valid() && sorted_[i].position == position; ++i) {
      function(sorted_[i].number);
    }
  }

 private:
  struct Key {
    int64_t position = 0, number = 0;
  };
  int64_t lower_bound(int64_t position) const;

  std::vector<int64_t> places_;  // of valid keys, then of padding
  std::vector<float> positions_;
  std::vector<KeyRun> runs_;
  std::vector<KeyTile> tiles_;  // of valid keys, then of padding
  size_t num_valid_tiles_ = 0;
  std::vector<Key> sorted_;  // valid keys by position
};

/// The keys of each sequence of a call on the CPU; the tokens must be checked.
std::shared_ptr<const std::vector<SequenceKeys>> sequence_keys(const AttentionTokens& tokens);

}  // namespace moetap::analysis
