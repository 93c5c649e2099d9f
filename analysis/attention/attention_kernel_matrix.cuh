#pragma once

#include "analysis/attention/attention_kernel_scores.cuh"

// The matrix of probabilities, averaged over the heads, where it is asked for: a pass of its own. A block owns up to 64
// rows and a tile of keys, and makes one head behind the other, so that the sums of heads are added in one order and
// stay in registers; a lane holds the values that it holds of scores.
namespace moetap::analysis::attention_kernel {

template <ScoreSource kSource>
class MatrixPass {
 public:
  MOETAP_DEVICE explicit MatrixPass(const AttentionKernelArguments& call)
      : call_(call),
        place_(call, call.key_tiles, /*heads=*/1),
        scores_(call, place_, /*padding_is_closed=*/true),
        counts_{counts(0), counts(1)} {}

  /// Values of rows that are none, and of keys that no row sees, are 0 already.
  MOETAP_DEVICE void run() {
    const int32_t tile = place_.part;
    if (!scores_.block_has_rows() || tile >= scores_.end_of_tiles() || scores_.tile(tile).open_valid == 0) return;
    for (int32_t head = 0; head < call_.num_heads; ++head) {
      scores_.take_head(head);
      if (scores_.make(tile)) add(head);
      warp::wait_for_block();
    }
    write(tile);
  }

 private:
  static constexpr int kGroups = TileScores<kSource>::kGroups;
  static constexpr float kNothing = -150;  // 2^x is taken for 0 below 2^-126

  /// One head with a number that is not finite makes the row none, in all heads.
  MOETAP_DEVICE bool counts(int half) const {
    const int32_t query = scores_.query(half);
    return query >= 0 && (call_.state[int64_t{place_.sequence} * call_.num_queries + query] & kIsNotFinite) == 0;
  }

  MOETAP_DEVICE void add(int32_t head) {
    MOETAP_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (!counts_[half]) continue;
      const int64_t of_head = int64_t{place_.sequence} * call_.num_heads + head;
      const AttentionSoftmax softmax = call_.softmax[of_head * call_.num_queries + scores_.slot(half)];
      if (softmax.largest == kInfinity) continue;  // this head sees no key
      MOETAP_UNROLL
      for (int n = 0; n < kGroups; ++n) {
        MOETAP_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const float logarithm = fmaxf(scores_.of[n][i] - softmax.largest - softmax.logarithm, kNothing);
          sums_[n][i] += warp::approximate_exp2(logarithm) * softmax.mass;
        }
      }
    }
  }

  MOETAP_DEVICE void write(int32_t tile) const {
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t key = tile * kKeysOfTile + 8 * n + 2 * place_in_group() + i % 2, query = scores_.query(i / 2);
        if (query < 0 || key >= call_.num_keys) continue;
        const int64_t line = int64_t{place_.sequence} * call_.num_queries + query;
        call_.matrix[line * call_.num_keys + key] = sums_[n][i] * call_.share;
      }
    }
  }

  const AttentionKernelArguments& call_;
  const BlockPlace place_;
  TileScores<kSource> scores_;
  const bool counts_[2];         // rows g and g + 8
  float sums_[kGroups][4] = {};  // over heads
};

}  // namespace moetap::analysis::attention_kernel
