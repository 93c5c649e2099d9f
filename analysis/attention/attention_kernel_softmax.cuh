#pragma once

#include "analysis/attention/attention_kernel_scores.cuh"

// The first pass: what makes probabilities of scores. A lane keeps the largest score of its keys and the sum of powers
// relative to it; only at the end do the four lanes of a row put theirs together.
namespace moetap::analysis::attention_kernel {

/// A sum of 2^score, relative to the largest.
struct PowerSum {
  float largest = kLowest;  // finite, so that differences from it are numbers
  float sum = 0;            // NaN: of scores that are NaN or +inf

  MOETAP_DEVICE void raise(float to) {
    sum *= warp::approximate_exp2(largest - to);
    largest = to;
  }
  MOETAP_DEVICE void add(float score) { sum += warp::approximate_exp2(score - largest); }
  MOETAP_DEVICE void join_lanes_of_row() {
    raise(largest_of_row(largest));
    sum = sum_of_row(sum);
  }
};

template <ScoreSource kSource>
class SoftmaxPass {
 public:
  MOETAP_DEVICE explicit SoftmaxPass(const AttentionKernelArguments& call)
      : call_(call),
        place_(call, call.softmax_parts, call.num_heads),
        scores_(call, place_, /*padding_is_closed=*/false) {}

  MOETAP_DEVICE void run() {
    if (!scores_.block_has_rows()) return;
    const int32_t begin = place_.part * call_.softmax_tiles, all = scores_.end_of_tiles();
    const int32_t end = begin + call_.softmax_tiles < all ? begin + call_.softmax_tiles : all;
    for (int32_t tile = begin; tile < end; ++tile) {
      const AttentionKeyTile& of_tile = scores_.tile(tile);
      const bool is_given = kSource == ScoreSource::kGiven;
      if (of_tile.open_valid == 0 && (is_given ? call_.scores.data == nullptr : of_tile.open_padding == 0)) continue;
      if (scores_.make(tile)) add(tile);
      warp::wait_for_block();
    }
    if (begin < end) write();
  }

 private:
  MOETAP_DEVICE void add(int32_t tile) {
    if (kSource == ScoreSource::kGiven) {
      read_scores(tile);
      add_keys(valid_, [](const AttentionKey&) { return true; });  // others have -inf
    } else if (scores_.tile(tile).open_padding == 0) {
      add_keys(valid_, [](const AttentionKey&) { return true; });
    } else {
      add_keys(valid_, [](const AttentionKey& key) { return key.position >= 0; });
      add_keys(padding_, [](const AttentionKey& key) { return key.position < 0; });
    }
  }

  template <typename Counts>
  MOETAP_DEVICE void add_keys(PowerSum (&sums)[2], const Counts& counts) const {
    float largest[2] = {sums[0].largest, sums[1].largest};
    MOETAP_UNROLL
    for (int n = 0; n < scores_.kGroups; ++n) {
      AttentionKey keys[2];
      scores_.read_keys(n, keys);
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (counts(keys[i % 2])) largest[i / 2] = fmaxf(largest[i / 2], scores_.of[n][i]);
      }
    }
    sums[0].raise(largest[0]);
    sums[1].raise(largest[1]);
    MOETAP_UNROLL
    for (int n = 0; n < scores_.kGroups; ++n) {
      AttentionKey keys[2];
      scores_.read_keys(n, keys);
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (counts(keys[i % 2])) sums[i / 2].add(scores_.of[n][i]);
      }
    }
  }

  /// The scores that given probabilities were made of: the largest of valid keys, and whether there is any.
  MOETAP_DEVICE void read_scores(int32_t tile) {
    if (call_.scores.data == nullptr) return;
    MOETAP_UNROLL
    for (int n = 0; n < scores_.kGroups; ++n) {
      AttentionKey keys[2];
      scores_.read_keys(n, keys);
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int32_t key = tile * kKeysOfTile + 8 * n + 2 * place_in_group() + i % 2, query = scores_.query(i / 2);
        if (key >= call_.num_keys || query < 0) continue;
        const float score = element(call_.scores, place_of(call_.scores, place_.sequence, place_.head, query, key));
        if (score != -kInfinity) any_score_[i / 2] = 1;
        if (keys[i % 2].position >= 0) largest_score_[i / 2] = fmaxf(largest_score_[i / 2], score);
      }
    }
  }

  MOETAP_DEVICE void write() {
    MOETAP_UNROLL
    for (int half = 0; half < 2; ++half) {
      valid_[half].join_lanes_of_row();
      AttentionPartialSoftmax part{valid_[half].largest, valid_[half].sum, 0, 0};
      if (kSource == ScoreSource::kGiven) {
        part.largest_of_padding = largest_of_row(largest_score_[half]);
        part.sum_of_padding = largest_of_row(any_score_[half]);
      } else {
        padding_[half].join_lanes_of_row();
        part.largest_of_padding = padding_[half].largest;
        part.sum_of_padding = padding_[half].sum;
      }
      if (place_in_group() != 0 || scores_.query(half) < 0) continue;
      const int64_t of_head = int64_t{place_.sequence} * call_.num_heads + place_.head;
      const int64_t heads = int64_t{call_.num_sequences} * call_.num_heads;
      call_.partial[(place_.part * heads + of_head) * call_.num_queries + scores_.slot(half)] = part;
    }
  }

  const AttentionKernelArguments& call_;
  const BlockPlace place_;
  TileScores<kSource> scores_;
  PowerSum valid_[2], padding_[2];  // of rows g and g + 8
  float largest_score_[2] = {-kInfinity, -kInfinity}, any_score_[2] = {0, 0};
};

/// Puts the parts of each row and head together. A thread owns a row of a head.
MOETAP_DEVICE inline void combine_softmax(const AttentionKernelArguments& call, bool is_given) {
  const int64_t index = warp::block() * warp::threads_of_block() + warp::thread_of_block();
  const int64_t rows_of_heads = call.num_lines * call.num_heads;
  if (index >= rows_of_heads) return;
  const int64_t of_head = index / call.num_queries, sequence = of_head / call.num_heads;
  const int64_t slot = index - of_head * call.num_queries;
  if (slot >= call.num_rows[sequence]) return;
  const int32_t query = call.rows[sequence * call.num_queries + slot];
  PowerSum valid, padding;
  float score = -kInfinity, any_score = 0;
  for (int32_t part = 0; part < call.softmax_parts; ++part) {
    const int32_t first_key = part * call.softmax_tiles * kKeysOfTile;
    if (call.causal && first_key > query) break;  // perhaps not written
    const AttentionPartialSoftmax of_part = call.partial[part * rows_of_heads + index];
    const auto join = [](PowerSum& to, float largest, float sum) {
      if (largest > to.largest) to.raise(largest);
      to.sum += sum * warp::approximate_exp2(largest - to.largest);
    };
    join(valid, of_part.largest, of_part.sum);
    if (is_given) {
      score = fmaxf(score, of_part.largest_of_padding);
      any_score = fmaxf(any_score, of_part.sum_of_padding);
    } else {
      join(padding, of_part.largest_of_padding, of_part.sum_of_padding);
    }
  }
  const bool finite =
      is_finite(valid.sum) && is_finite(padding.sum) && valid.largest < kInfinity && padding.largest < kInfinity;
  AttentionSoftmax softmax{kInfinity, 0, 0, -kInfinity};
  int32_t state = 0;
  if (!finite) {
    // A softmax that read nothing but -inf gives NaN: the row sees no keys.
    const bool is_masked = is_given && call.scores.data != nullptr && any_score == 0;
    state = is_masked ? 0 : kIsNotFinite;
  } else if (valid.sum > 0) {
    softmax.largest = valid.largest;
    softmax.logarithm = log2f(valid.sum);
    if (is_given) {
      softmax.mass = valid.sum * exp2f(valid.largest);
      softmax.score = score;
    } else {
      const float rest = padding.sum * exp2f(fminf(padding.largest - valid.largest, 126.0F));
      softmax.mass = padding.sum > 0 ? valid.sum / (valid.sum + rest) : 1.0F;
      softmax.score = valid.largest * kLn2;
    }
    state = kSeesKeys;
  }
  call.softmax[index] = softmax;
  if (state != 0) warp::set_bits(call.state + sequence * call.num_queries + query, state);
}

}  // namespace moetap::analysis::attention_kernel
