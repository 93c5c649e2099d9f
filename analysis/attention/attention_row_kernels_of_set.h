#pragma once

#include <utility>

#include "analysis/attention/attention_kernels_of_set.h"

// The loops of Note [A row by its keys], of one instruction set; see attention_kernels_of_set.h.
namespace moetap::analysis {
namespace {

/// Lanes in blocks of kStep: those of an even block hold the sum of a block of `a` and of the next one, those of an odd
/// block the same of `b`.
template <int kStep, int... kLane>
MOETAP_ALWAYS_INLINE Reals folded(const Reals& a, const Reals& b, std::integer_sequence<int, kLane...> /*lanes*/) {
  const Ints first = {(kLane / kStep % 2 == 0 ? kLane : kWidth + kLane - kStep)...};
  const Ints second = {(kLane / kStep % 2 == 0 ? kLane + kStep : kWidth + kLane)...};
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second);
}

/// The sum of each of 2 * kStep registers, in its lane.
template <int kStep>
MOETAP_ALWAYS_INLINE Reals sums_of_each(Reals* registers) {
#pragma GCC unroll 16
  for (int i = 0; i < kStep; ++i) {
    registers[i] = folded<kStep>(registers[i], registers[i + kStep], std::make_integer_sequence<int, kWidth>{});
  }
  if constexpr (kStep == 1) {
    return registers[0];
  } else {
    return sums_of_each<kStep / 2>(registers);
  }
}

/// Sums of registers of floats, in double precision.
struct DoubleSums {
  double lanes[kWidth] = {};

  MOETAP_ALWAYS_INLINE void add(const Reals& x) { add_to_doubles(x, lanes); }
  double total() const {
    double sum = 0;
    for (const double lane : lanes) sum += lane;
    return sum;
  }
};

struct SetRowKernels {
  // As many terms are added in float32.
  static constexpr int64_t kKeysOfSum = 16 * kWidth;

  /// function(begin, end) for keys whose sums are made in float32.
  template <typename Function>
  MOETAP_ALWAYS_INLINE static void each_part(int64_t num_keys, const Function& function) {
    for (int64_t begin = 0; begin < num_keys; begin += kKeysOfSum) {
      function(begin, begin + kKeysOfSum < num_keys ? begin + kKeysOfSum : num_keys);
    }
  }

  /// The products of kHeads heads with kWidth / kHeads keys fill a register.
  template <int kHeads>
  MOETAP_ALWAYS_INLINE static void multiply(const float* query, int64_t num_keys, const float* key, int64_t key_pitch,
                                            int64_t depth, float* scores, int64_t pitch) {
    constexpr int kKeys = kWidth / kHeads;
    for (int64_t j = 0; j < num_keys; j += kKeys) {
      const float* keys[kKeys];
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) keys[k] = key + (j + k < num_keys ? j + k : num_keys - 1) * key_pitch;
      Reals products[kWidth] = {};
      for (int64_t d = 0; d < depth; d += kWidth) {
        Reals q[kHeads];
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h) q[h] = load(query + h * depth + d);
#pragma GCC unroll 16
        for (int k = 0; k < kKeys; ++k) {
          const Reals values = load(keys[k] + d);
#pragma GCC unroll 4
          for (int h = 0; h < kHeads; ++h) products[h * kKeys + k] += q[h] * values;
        }
      }
      const Reals sums = sums_of_each<kWidth / 2>(products);
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) {
        __builtin_memcpy(scores + h * pitch + j, reinterpret_cast<const float*>(&sums) + h * kKeys,
                         kKeys * sizeof(float));
      }
    }
  }

  static void scores(int64_t num_heads, const float* query, int64_t num_keys, const float* key, int64_t key_pitch,
                     int64_t depth, float* scores, int64_t pitch) {
    static_assert(kLaneGroup % kWidth == 0 && kHeadsAtOnce == 4 && kWidth >= 4);
    for (int64_t head = 0; head < num_heads;) {
      const int64_t left = num_heads - head;
      const float* of_head = query + head * depth;
      float* to = scores + head * pitch;
      if (left >= 4) {
        multiply<4>(of_head, num_keys, key, key_pitch, depth, to, pitch);
        head += 4;
      } else if (left >= 2) {
        multiply<2>(of_head, num_keys, key, key_pitch, depth, to, pitch);
        head += 2;
      } else {
        multiply<1>(of_head, num_keys, key, key_pitch, depth, to, pitch);
        head += 1;
      }
    }
  }

  static float largest(int64_t num_keys, const float* values) {
    Reals most = all(-kInfinity);
    for (int64_t j = 0; j < num_keys; j += kWidth) most = largest_of(load(values + j), most);
    float lanes[kWidth], result = -kInfinity;
    store(most, lanes);
    for (const float lane : lanes) result = lane > result ? lane : result;
    return result;
  }

  static ExponentialSums exponentials(int64_t num_keys, float* values, float shift, float query_position,
                                      const float* key_position) {
    const Reals i = all(query_position);
    DoubleSums sum, products, distance;
    each_part(
        num_keys, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
          Reals of_sum{}, of_products{}, of_distance{};
          for (int64_t j = begin; j < end; j += kWidth) {
            Reals log;
            const Reals e = exponential(load(values + j) - shift, log);
            store(e, values + j);
            of_sum += e;
            of_products += e * log;
            of_distance += e * absolute(i - load(key_position + j));
          }
          sum.add(of_sum);
          products.add(of_products);
          distance.add(of_distance);
        });
    return {sum.total(), products.total(), distance.total()};
  }

  static void add_scaled(int64_t num_keys, const float* values, float factor, float* to) {
    for (int64_t j = 0; j < num_keys; j += kWidth) store(load(to + j) + load(values + j) * factor, to + j);
  }

  static DistanceSums distances(int64_t num_keys, const float* mean, float query_position, const float* key_position,
                                float half) {
    const Reals i = all(query_position);
    DoubleSums distance, self, diagonal, far;
    each_part(
        num_keys, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
          Reals of_distance{}, of_self{}, of_diagonal{}, of_far{};
          for (int64_t j = begin; j < end; j += kWidth) {
            const Reals p = load(mean + j), away = absolute(i - load(key_position + j));
            of_distance += p * away;
            of_self += away == 0.0F ? p : Reals{};
            of_diagonal += away <= 5.0F ? p : Reals{};
            of_far += away > half ? p : Reals{};
          }
          distance.add(of_distance);
          self.add(of_self);
          diagonal.add(of_diagonal);
          far.add(of_far);
        });
    return {distance.total(), self.total(), diagonal.total(), far.total()};
  }

  static float sum(int64_t num_keys, const float* values) {
    Reals total{};
    int64_t j = 0;
    for (; j + kWidth <= num_keys; j += kWidth) total += load(values + j);
    float lanes[kWidth], result = 0;
    store(total, lanes);
    for (const float lane : lanes) result += lane;
    for (; j < num_keys; ++j) result += values[j];
    return result;
  }
};

constexpr AttentionKernels all_kernels() {
  using Tiles = SetKernels;
  using Row = SetRowKernels;
  return {Tiles::widen,      Tiles::scores,
          Tiles::add,        Tiles::softmax,
          Tiles::attend,     Tiles::distances,
          Tiles::sum_keys,   Tiles::sum_lanes,
          Tiles::logarithms, {Row::scores, Row::largest, Row::exponentials, Row::add_scaled, Row::distances, Row::sum}};
}

}  // namespace
}  // namespace moetap::analysis
