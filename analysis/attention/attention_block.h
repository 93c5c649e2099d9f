#pragma once

#include <cstdint>
#include <vector>

#include "analysis/attention/attention_columns.h"
#include "analysis/attention/attention_row_scores.h"
#include "analysis/attention/attention_rows.h"
#include "analysis/attention/attention_scores.h"

namespace moetap::analysis {

/// A number for each lane of a block.
template <typename Number>
struct alignas(64) OfLanes {
  Number of[kBlockRows] = {};
};

/// Measures blocks of rows, one after the other, in memory that is used again. See Note [Tiles of attention].
///
/// Note [Ways through a block]
/// With the rows' log-sum-exp the probabilities are known at once: tile by tile, over all heads, in a buffer of one
/// tile. Without it, and where probabilities are given that need not sum to 1, head by head: first the scores of all
/// tiles, which are kept, with their log-sum-exp, then the sums. Where a row's probabilities do not sum to 1 on the
/// first way (its keys are all masked; padding is attended to; the log-sum-exp is of something else), the block goes
/// the second. A row of a sequence of few queries goes a third: Note [A row by its keys].
class AttentionBlock {
 public:
  /// Begins a call. It must stay. matrix: `matrix_lanes` will be asked for.
  void begin(const HostAttentionCall& call, int64_t num_regions, bool matrix);
  /// The memory that is kept for other calls.
  int64_t bytes() const;

  void measure(const BlockRows& rows, const SequenceKeys& keys);

  // Of the block that was measured last.

  AttentionLine line(int64_t lane) const { return line_[lane]; }
  /// Columns of AttentionRows::values, but for `received`, and of `bins`.
  const OfLanes<double>& values(int64_t column) const { return values_[column]; }
  const OfLanes<double>& bins(int64_t column) const { return bins_[column]; }
  /// Terms of rows for the sums by head.
  const OfLanes<double>& head_terms(int64_t head, HeadSum which) const { return heads_[head].terms[which]; }
  /// Scores; -inf where none is known.
  const OfLanes<float>& largest_scores(int64_t head) const { return heads_[head].largest; }
  /// Sum over rows of the mean over heads of p, of the valid keys in the order of their tiles.
  const std::vector<double>& received() const { return received_; }
  /// Sum over heads of P, by lane; key: number among the valid keys.
  const float* matrix_lanes(int64_t key) const { return matrix_.data() + key * pitch_; }

 private:
  struct Head {
    OfLanes<double> mass, first, products, distance;  // over tiles
    OfLanes<float> largest;
    OfLanes<double> terms[kNumHeadSums];
  };

  void clear();
  bool has_log_sums() const;
  bool measure_by_tiles();
  void measure_by_heads();
  void add_softmax(int64_t head);
  void attend(int64_t tile, const float* scores, Head& head, float* mean, float* raw);
  void measure_by_keys();
  void add_row_of_head(int64_t head, float* scores, float* padding);
  void add_row();
  void finish_head(Head& head);
  void add_tile(int64_t tile, const float* mean);
  void finish_rows();
  bool is_masked(int64_t head, int64_t lane) const;
  void read_largest_scores();
  AttentionTile tile_of(const KeyTile& keys, const MaskedTile& mask) const;
  int64_t num_tiles() const { return static_cast<int64_t>(keys_->valid().size()); }
  int64_t floats_of_tile() const { return kTileKeys * pitch_; }

  const HostAttentionCall* call_ = nullptr;
  const AttentionKernels& kernels_ = attention_kernels();
  int64_t num_regions_ = 0;
  bool with_matrix_ = false;
  TileScores scores_;
  RowScores row_scores_;

  const BlockRows* rows_ = nullptr;
  const SequenceKeys* keys_ = nullptr;
  int64_t num_rows_ = 0, pitch_ = 0;
  OfLanes<float> position_;
  OfLanes<float> shift_, log_sum_, mass_;  // of the head at hand: P = exp(score - shift - log_sum) * mass
  std::vector<OfLanes<float>> shifts_;     // of all heads
  std::vector<Head> heads_;
  std::vector<OfLanes<double>> values_, bins_;
  OfLanes<int64_t> heads_with_keys_;
  AttentionLine line_[kBlockRows] = {};
  std::vector<double> received_;
  std::vector<float> tiles_of_scores_, mean_, matrix_;
};

}  // namespace moetap::analysis
