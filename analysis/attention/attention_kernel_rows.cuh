#pragma once

#include "analysis/attention/attention_kernel_scores.cuh"
#include "analysis/attention/attention_rows.h"
#include "analysis/numbers/fixed_point.h"

// The second pass: what is summed of p. A warp keeps the sums of its 16 rows in registers and adds them to memory at
// the end of its part of the keys; what keys receive is added tile by tile.
namespace moetap::analysis::attention_kernel {

/// A number for each of a lane's two rows.
struct OfRows {
  float of[2] = {0, 0};
};

template <ScoreSource kSource>
class RowPass {
 public:
  MOETAP_DEVICE explicit RowPass(const AttentionKernelArguments& call)
      : call_(call),
        place_(call, call.value_parts, call.num_heads),
        scores_(call, place_, /*padding_is_closed=*/true),
        memory_{call.row_pitch, call.warps_of_block},
        shared_(reinterpret_cast<char*>(warp::shared_memory())) {}

  MOETAP_DEVICE void run() {
    if (!scores_.block_has_rows()) return;
    const int32_t begin = place_.part * call_.value_tiles, all = scores_.end_of_tiles();
    const int32_t end = begin + call_.value_tiles < all ? begin + call_.value_tiles : all;
    if (begin >= end) return;
    read_rows();
    for (int32_t tile = begin; tile < end; ++tile) {
      if (scores_.tile(tile).open_valid == 0) continue;
      stage_columns(tile);
      const bool seen = scores_.make(tile);
      if (seen) attend(scores_.tile(tile));
      if (call_.self) write_received(seen);
      warp::wait_for_block();
      if (call_.self) add_received(tile);
    }
    add_to_memory();
  }

 private:
  static constexpr int kGroups = TileScores<kSource>::kGroups, kColumnGroups = kNumKeyColumns / 8;
  static constexpr float kNothing = -150;  // 2^x is taken for 0 below 2^-126
  /// p is given to the products as the sum of two halves, in these units, so that small ones are not lost.
  static constexpr float kUnitsOfHalves = 4096;

  MOETAP_DEVICE int64_t line(int half) const {
    return int64_t{place_.sequence} * call_.num_queries + scores_.query(half);
  }
  MOETAP_DEVICE int64_t of_head() const { return int64_t{place_.sequence} * call_.num_heads + place_.head; }

  MOETAP_DEVICE void read_rows() {
    float least = kInfinity, most = -kInfinity, score = -kInfinity;
    MOETAP_UNROLL
    for (int half = 0; half < 2; ++half) {
      largest_[half] = kInfinity;
      logarithm_[half] = position_[half] = 0;
      if (scores_.query(half) < 0) continue;
      position_[half] = static_cast<float>(call_.query_position.at(place_.sequence, scores_.query(half)));
      least = fminf(least, position_[half]);
      most = fmaxf(most, position_[half]);
      half_of_keys_ = static_cast<float>(call_.rows_num_keys[line(half)] / 2);
      // One head with a number that is not finite makes the row none, in all heads.
      if ((call_.state[line(half)] & kIsNotFinite) != 0) continue;
      const AttentionSoftmax softmax = call_.softmax[of_head() * call_.num_queries + scores_.slot(half)];
      largest_[half] = softmax.largest;
      logarithm_[half] = softmax.logarithm;
      if (place_.part != 0 || place_in_group() != 0 || softmax.largest == kInfinity) continue;
      score = fmaxf(score, softmax.score);
      add(half, kMaxWeightWord, exp2f(-softmax.logarithm));
      add(half, kKeyMassWord, softmax.mass);
    }
    for (int mask = 16; mask > 0; mask /= 2) {
      least = fminf(least, warp::from_lane_xor(least, mask));
      most = fmaxf(most, warp::from_lane_xor(most, mask));
      score = fmaxf(score, warp::from_lane_xor(score, mask));
    }
    least_position_ = least;
    most_position_ = most;
    half_of_keys_ = warp::from_lane(half_of_keys_, 0);  // a warp that has rows has one in lane 0
    if (place_.part == 0 && warp::lane() == 0 && score > -kInfinity) {
      warp::raise(call_.head_max_score + of_head(), code_of(score));
    }
  }

  /// As `score_code`.
  MOETAP_DEVICE static int64_t code_of(float score) {
    const auto bits = std::bit_cast<uint32_t>(score);
    return int64_t{(bits >> 31) != 0 ? ~bits : bits | 0x80000000U} + 1;
  }

  /// Adds a value of a row, of one head, to its mean over heads.
  MOETAP_DEVICE void add(int half, int32_t word, float value) const {
    const int64_t units = to_units(value * call_.share);
    if (units != 0) warp::add(call_.row_words + line(half) * kNumRowWords + word, units);
  }

  MOETAP_DEVICE void stage_columns(int32_t tile) const {
    const auto* from = reinterpret_cast<const Words*>(
        call_.columns + (int64_t{place_.sequence} * call_.key_tiles + tile) * kWordsOfColumns);
    auto* to = reinterpret_cast<Words*>(shared_ + memory_.columns());
    for (int32_t i = warp::thread_of_block(); i < kWordsOfColumns / 4; i += warp::threads_of_block()) to[i] = from[i];
  }

  /// Makes probabilities of the scores and adds them up.
  MOETAP_DEVICE void attend(const AttentionKeyTile& tile) {
    float total[2] = {0, 0};
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      AttentionKey keys[2];
      scores_.read_keys(n, keys);
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int half = i / 2;
        // NaN of keys and rows that do not count gives kNothing, too.
        const float logarithm = fmaxf(scores_.of[n][i] - largest_[half] - logarithm_[half], kNothing);
        const float p = warp::approximate_exp2(logarithm);
        scores_.of[n][i] = p;
        total[half] += p;
        products_.of[half] += p * logarithm;
        distance_.of[half] += p * fabsf(position_[half] - keys[i % 2].position);
      }
    }
    add_bands(tile, total);
    add_columns();
  }

  /// Most tiles are nowhere near a row, and wholly far from it or wholly not.
  MOETAP_DEVICE void add_bands(const AttentionKeyTile& tile, const float (&total)[2]) {
    const auto first = static_cast<float>(tile.first), last = static_cast<float>(tile.last);
    const float nearest = fmaxf(fmaxf(first - most_position_, least_position_ - last), 0.0F);
    const float farthest = fmaxf(last - least_position_, most_position_ - first);
    const bool all_far = nearest > half_of_keys_, some_far = farthest > half_of_keys_;
    if (nearest > kDiagonalWidth && all_far == some_far) {
      if (all_far) {
        far_.of[0] += total[0];
        far_.of[1] += total[1];
      }
      return;
    }
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      AttentionKey keys[2];
      scores_.read_keys(n, keys);
      MOETAP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int half = i / 2;
        const float p = scores_.of[n][i], away = fabsf(position_[half] - keys[i % 2].position);
        if (away == 0) own_.of[half] += p;
        if (away <= kDiagonalWidth) diagonal_.of[half] += p;
        if (away > half_of_keys_) far_.of[half] += p;
      }
    }
  }

  /// The products of p with the columns of the keys.
  MOETAP_DEVICE void add_columns() {
    const auto* columns = reinterpret_cast<const Words*>(shared_ + memory_.columns()) + warp::lane();
    MOETAP_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t upper[2][4], rest[2][4];
      MOETAP_UNROLL
      for (int step = 0; step < 2; ++step) {
        MOETAP_UNROLL
        for (int i = 0; i < 4; ++i) {
          // Rows g, g + 8 of keys 2t, then of keys 2t + 8: see Note [Tiles of a product].
          const float* p = scores_.of[4 * pair + 2 * step + i / 2] + 2 * (i % 2);
          const float first = p[0] * kUnitsOfHalves, second = p[1] * kUnitsOfHalves;
          upper[step][i] = warp::pack_halves(first, second);
          const warp::TwoFloats taken = warp::unpack_halves(upper[step][i]);
          rest[step][i] = warp::pack_halves(first - taken.first, second - taken.second);
        }
      }
      MOETAP_UNROLL
      for (int group = 0; group < kColumnGroups; ++group) {
        if (group == 1 && call_.num_regions <= 8) continue;  // columns of no region
        const Words ones = load_words(columns + (2 * group + pair) * 32);
        MOETAP_UNROLL
        for (int step = 0; step < 2; ++step) {
          multiply(columns_[group], rest[step], ones.of[2 * step], ones.of[2 * step + 1]);
          multiply(columns_[group], upper[step], ones.of[2 * step], ones.of[2 * step + 1]);
        }
      }
    }
  }
  MOETAP_DEVICE static void multiply(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    warp::multiply_halves(sums, a[0], a[1], a[2], a[3], b0, b1);
  }

  MOETAP_DEVICE float* received_of_warps() const { return reinterpret_cast<float*>(shared_ + memory_.received()); }

  /// Sums over the warp's rows of the tile's keys. Each exchange halves the keys of which a lane keeps sums.
  MOETAP_DEVICE void write_received(bool seen) const {
    float* to = received_of_warps() + warp::warp_of_block() * kKeysOfTile;
    float sums[2 * kGroups];
    MOETAP_UNROLL
    for (int n = 0; n < kGroups; ++n) {
      sums[2 * n] = seen ? scores_.of[n][0] + scores_.of[n][2] : 0;
      sums[2 * n + 1] = seen ? scores_.of[n][1] + scores_.of[n][3] : 0;
    }
    int n = 0;
    MOETAP_UNROLL
    for (int step = 0; step < 3; ++step) {
      const int mask = 16 >> step, kept = kGroups >> step;
      const bool upper = (warp::lane() & mask) != 0;
      MOETAP_UNROLL
      for (int i = 0; i < kGroups; ++i) {
        if (i >= kept) continue;
        const float given = upper ? sums[i] : sums[i + kept];
        sums[i] = (upper ? sums[i + kept] : sums[i]) + warp::from_lane_xor(given, mask);
      }
      n = 2 * n + (upper ? 1 : 0);
    }
    to[8 * n + 2 * place_in_group()] = sums[0];
    to[8 * n + 2 * place_in_group() + 1] = sums[1];
  }

  MOETAP_DEVICE void add_received(int32_t tile) const {
    for (int32_t i = warp::thread_of_block(); i < kKeysOfTile; i += warp::threads_of_block()) {
      float sum = 0;
      for (int32_t of = 0; of < call_.warps_of_block; ++of) sum += received_of_warps()[of * kKeysOfTile + i];
      const int64_t units = to_units(sum * call_.share);
      const int64_t key = int64_t{place_.sequence} * call_.num_keys + tile * kKeysOfTile + i;
      if (units != 0) warp::add(call_.received + key, units);  // a key that does not exist has p = 0
    }
  }

  MOETAP_DEVICE void add_to_memory() const {
    if (!scores_.warp_has_rows()) return;
    const int t = place_in_group();
    FixedPoint term;  // lane 0 of a row has that of the entropy, lane 1 of the first keys, lane 2 of the distance
    MOETAP_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float entropy = fmaxf(-kLn2 * sum_of_row(products_.of[half]), 0.0F);
      const float distance = sum_of_row(distance_.of[half]), own = sum_of_row(own_.of[half]);
      const float diagonal = sum_of_row(diagonal_.of[half]), far = sum_of_row(far_.of[half]);
      if (largest_[half] == kInfinity) continue;  // there is no row, or none that counts
      if (t == 0) add(half, kEntropyWord, entropy);
      if (t == 1) add(half, kSelfWord, own);
      if (t == 2) add(half, kDistanceWord, distance);
      if (t == 3) add(half, kDiagonalWord, diagonal);
      if (t == 3) add(half, kFarWord, far);
      MOETAP_UNROLL
      for (int group = 0; group < kColumnGroups; ++group) {
        MOETAP_UNROLL
        for (int i = 0; i < 2; ++i) {
          add(half, kColumnWords + 8 * group + 2 * t + i, columns_[group][2 * half + i] / kUnitsOfHalves);
        }
      }
      static_assert(kFirstColumn == 8 * (kColumnGroups - 1) + 2, "lane 1 has the first keys");
      const float first = columns_[kColumnGroups - 1][2 * half] / kUnitsOfHalves;
      const float of_lane = t == 0 ? entropy : t == 1 ? first : distance;
      const FixedPoint more = to_fixed_point(call_.weight[place_.sequence] * static_cast<double>(of_lane));
      term.hi += more.hi;
      term.lo += more.lo;
    }
    for (int mask = 4; mask <= 16; mask *= 2) {
      term.hi += warp::from_lane_xor(term.hi, mask);
      term.lo += warp::from_lane_xor(term.lo, mask);
    }
    if (warp::lane() > 2) return;
    const int64_t sum = of_head() * kNumHeadSums + (t == 0 ? kHeadEntropy : t == 1 ? kHeadFirst : kHeadDistance);
    if (term.hi != 0) warp::add(call_.head_high + sum, term.hi);
    if (term.lo != 0) warp::add(call_.head_low + sum, term.lo);
  }

  const AttentionKernelArguments& call_;
  const BlockPlace place_;
  TileScores<kSource> scores_;
  const AttentionBlockMemory memory_;
  char* shared_;
  float largest_[2], logarithm_[2], position_[2];  // of rows g and g + 8
  float least_position_ = 0, most_position_ = 0, half_of_keys_ = 0;
  OfRows products_, distance_, own_, diagonal_, far_;  // of this lane's keys
  float columns_[kColumnGroups][4] = {};               // sums of a product, in kUnitsOfHalves
};

}  // namespace moetap::analysis::attention_kernel
