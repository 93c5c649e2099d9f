#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "analysis/attention/attention_keys.h"
#include "analysis/attention/attention_plane.h"

namespace moetap::analysis {

/// What a mask leaves of a tile for the rows of a block.
struct MaskedTile {
  int64_t first_lane = 0;       // lanes before it see no key of the tile; a multiple of kLaneGroup
  bool closed = false;          // no lane sees a key
  const float* mask = nullptr;  // [keys, pitch], to be added; null: all keys are seen as they are
  float largest = 0;            // of the mask
};

/// The masks of a block: the call's mask and the causal one, tile by tile. Memory is used again.
class BlockMasks {
 public:
  /// Begins a call. plane: its mask, expanded to [B, H, Sq, Sk]; may be undefined.
  void begin(const AttentionPlane& plane, bool causal) {
    plane_ = plane;
    causal_ = causal;
  }

  /// The same for all heads.
  bool is_shared() const { return plane_.data == nullptr || plane_.strides[1] == 0; }

  /// Makes the masks of the tiles for a head. rows: numbers of the block's queries in the tensor, ascending.
  void prepare(int64_t sequence, int64_t head, std::span<const int64_t> rows, int64_t pitch, const SequenceKeys& keys);

  const MaskedTile& valid(int64_t tile) const { return valid_[tile]; }
  const MaskedTile& padding(int64_t tile) const { return padding_[tile]; }
  int64_t bytes() const;

 private:
  MaskedTile make(int64_t sequence, int64_t head, std::span<const int64_t> rows, int64_t pitch, const KeyTile& tile);
  float* next_buffer(int64_t pitch);

  AttentionPlane plane_;
  bool causal_ = false;
  std::vector<MaskedTile> valid_, padding_;
  std::vector<std::vector<float>> buffers_;
  size_t used_ = 0;
};

}  // namespace moetap::analysis
