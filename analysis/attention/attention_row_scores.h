#pragma once

#include <cstdint>
#include <vector>

#include "analysis/attention/attention_scores.h"

namespace moetap::analysis {

/// Makes the scores of one row of a call, a few heads at once: Note [A row by its keys]. Memory is used again.
class RowScores {
 public:
  /// Begins a call. It must stay.
  void begin(const HostAttentionCall& call) { call_ = &call; }
  /// Begins a row, the query at `place` of a sequence. The keys must stay.
  void start(int64_t sequence, int64_t place, const SequenceKeys& keys);

  /// Makes the scores of `head`, and of heads behind it that share its keys. Returns how many heads.
  int64_t make(int64_t head);
  /// Of head `head + i` of those made last: the scores of valid keys, in the order of their tiles, and of keys that are
  /// padding. -inf behind them, up to the next multiple of kLaneGroup.
  float* valid(int64_t i) { return scores_.data() + i * pitch_; }
  float* padding(int64_t i) { return valid(i) + begin_of_padding_; }
  int64_t num_valid() const { return num_valid_; }      // a multiple of kLaneGroup
  int64_t num_padding() const { return num_padding_; }  // likewise; 0 where probabilities are given

  /// The values of another plane for the valid keys, laid out as `valid(0)`, which they replace.
  const float* read(const AttentionPlane& plane, int64_t head);

  int64_t bytes() const;

 private:
  struct KeyValues {
    const float* values = nullptr;
    int64_t pitch = 0;  // from a key to the next
  };

  void read(const AttentionPlane& plane, int64_t head, const KeyTile& keys, float* to) const;
  void close_ends(int64_t num_heads);
  void multiply(int64_t head, int64_t num_heads);
  KeyValues load_keys(int64_t key_head, const KeyTile& keys);
  /// What is added to the scores of a head; null: nothing.
  const float* mask_of(int64_t head);
  /// Calls function(tile, offset of its first key in a head's scores).
  template <typename Function>
  void each_tile(const Function& function) const;

  const HostAttentionCall* call_ = nullptr;
  const AttentionKernels& kernels_ = attention_kernels();
  const SequenceKeys* keys_ = nullptr;
  int64_t sequence_ = 0, place_ = 0;
  int64_t num_valid_ = 0, num_padding_ = 0, begin_of_padding_ = 0;
  int64_t pitch_ = 0;  // from a head to the next
  int64_t depth_ = 0;  // of `query_`: a multiple of kLaneGroup
  int64_t masked_head_ = -1;
  bool has_mask_ = false;      // of masked_head_
  std::vector<float> scores_;  // [kHeadsAtOnce, pitch]
  std::vector<float> query_;   // [kHeadsAtOnce, depth], times scale, zeros behind it
  std::vector<float> key_tile_;
  std::vector<float> mask_;  // [pitch]
};

}  // namespace moetap::analysis
