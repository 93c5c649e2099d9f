#pragma once

#include <cstdint>
#include <vector>

#include "analysis/attention/attention_kernels.h"

namespace moetap::analysis {

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

/// Keys of a sequence that are taken at once.
struct KeyTile {
  std::vector<int64_t> places;   // their numbers in the tensor, ascending
  std::vector<float> positions;  // of keys that are valid, beside `places`
  std::vector<KeyRun> runs;      // of keys that are valid
};

/// The keys of one sequence. Valid keys fill tiles of their own, so that a valid key's tile does not depend on padding.
class SequenceKeys {
 public:
  /// positions: int32 [num_keys], -1 for padding; regions: uint8 [num_keys]; null: parts of the positions.
  SequenceKeys(const int32_t* positions, const uint8_t* regions, int64_t num_keys, int64_t num_regions);

  int64_t num_valid() const { return static_cast<int64_t>(sorted_.size()); }
  const std::vector<KeyTile>& valid() const { return valid_; }
  const std::vector<KeyTile>& padding() const { return padding_; }

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

  std::vector<KeyTile> valid_, padding_;
  std::vector<Key> sorted_;  // valid keys by position
};

}  // namespace moetap::analysis
