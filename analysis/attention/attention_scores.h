#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "analysis/attention/attention_keys.h"
#include "analysis/attention/attention_masks.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/attention/attention_plane.h"

namespace moetap::analysis {

/// An attention call in plain memory, on the CPU.
struct HostAttentionCall {
  HostAttentionCall(const AttentionCall& call, const AttentionShape& shape);

  AttentionShape shape;
  AttentionPlane probabilities, scores, query, key, mask;  // the last dimension of query and key is contiguous
  AttentionPlane log_sum_exp;                              // [B, H, Sq, 1], float
  int64_t depth = 0;                                       // D
  float scale = 1;
  bool causal = false;

 private:
  at::Tensor query_, key_, mask_, log_sum_exp_;  // copies and views that the planes are of
};

/// Rows of one sequence that are measured at once.
struct BlockRows {
  int64_t sequence = 0;
  bool by_keys = false;  // one row: Note [A row by its keys]
  int64_t size = 0;
  int64_t place[kBlockRows] = {};     // numbers of the queries in the tensor, ascending
  int64_t position[kBlockRows] = {};  // beside `place`

  void add(int64_t row_place, int64_t row_position) {
    place[size] = row_place;
    position[size++] = row_position;
  }
  std::span<const int64_t> places() const { return {place, static_cast<size_t>(size)}; }
  /// Lanes of its tiles.
  int64_t pitch() const { return by_keys ? 1 : (size + kLaneGroup - 1) / kLaneGroup * kLaneGroup; }
};

/// Makes the scores of the tiles of a block: from queries and keys, or as the logarithm of given probabilities.
class TileScores {
 public:
  /// Begins a call. It must stay.
  void begin(const HostAttentionCall& call);
  /// Begins a block. The arguments must stay.
  void start(const BlockRows& rows, const SequenceKeys& keys);
  /// Before the tiles of another head; not needed where masks are shared by heads.
  void start_head(int64_t head);
  bool masks_are_shared() const { return masks_.is_shared(); }
  const BlockMasks& masks() const { return masks_; }

  /// scores: float [kTileKeys, pitch]; written from mask.first_lane on. Lanes without a row hold anything finite.
  void make(int64_t head, const KeyTile& keys, const MaskedTile& mask, float* scores);

  int64_t bytes() const;

  /// The values of another plane, as they are.
  void read(const AttentionPlane& plane, int64_t head, const KeyTile& keys, float* tile) const;

 private:
  void multiply(int64_t head, const KeyTile& keys, int64_t first_lane, float* scores);
  const float* packed_query(int64_t head);
  /// Values of keys from `begin` on.
  struct KeyValues {
    const float* values = nullptr;
    int64_t pitch = 0;  // from a key to the next
  };
  KeyValues load_keys(int64_t key_head, const KeyTile& keys, int64_t begin, int64_t count);

  const HostAttentionCall* call_ = nullptr;
  const AttentionKernels& kernels_ = attention_kernels();
  BlockMasks masks_;
  const BlockRows* rows_ = nullptr;
  const SequenceKeys* keys_ = nullptr;
  std::vector<float> query_;     // [H, D, pitch], times scale
  std::vector<char> is_packed_;  // [H]
  std::vector<float> row_;       // one query
  std::vector<float> key_tile_;  // [kTileKeys, kKeyPitch]
  // What `key_tile_` holds.
  const KeyTile* loaded_ = nullptr;
  int64_t loaded_head_ = -1, loaded_begin_ = -1;
};

}  // namespace moetap::analysis
