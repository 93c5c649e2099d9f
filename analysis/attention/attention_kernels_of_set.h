#pragma once

#include <limits>

#include "analysis/attention/attention_kernels.h"

// The kernels of one instruction set. A file that includes this one is compiled with its own options (see
// CMakeLists.txt), so nothing here may be shared with other files. MOETAP_VECTOR_BYTES: the size of a register.
#define MOETAP_ALWAYS_INLINE inline __attribute__((always_inline))

namespace moetap::analysis {
namespace {

constexpr int kWidth = MOETAP_VECTOR_BYTES / sizeof(float);  // lanes of a register
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kNothing = -87.0F;  // e^x below it is taken for 0

using Reals = float __attribute__((vector_size(MOETAP_VECTOR_BYTES)));
using Ints = int32_t __attribute__((vector_size(MOETAP_VECTOR_BYTES)));
using HalfReals = float __attribute__((vector_size(MOETAP_VECTOR_BYTES / 2)));
using Doubles = double __attribute__((vector_size(MOETAP_VECTOR_BYTES)));

MOETAP_ALWAYS_INLINE Reals load(const float* from) {
  Reals x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}
MOETAP_ALWAYS_INLINE void store(const Reals& x, float* to) {
  __builtin_memcpy(to, &x, sizeof(x));
}
MOETAP_ALWAYS_INLINE Reals all(float x) {
  return Reals{} + x;
}
MOETAP_ALWAYS_INLINE Reals largest_of(const Reals& x, const Reals& y) {
  return y < x ? x : y;  // y where x is NaN
}
MOETAP_ALWAYS_INLINE Reals absolute(const Reals& x) {
  return reinterpret_cast<Reals>(reinterpret_cast<Ints>(x) & 0x7fffffff);
}

/// to[lane] += x[lane].
MOETAP_ALWAYS_INLINE void add_to_doubles(const Reals& x, double* to) {
  HalfReals halves[2];
  __builtin_memcpy(halves, &x, sizeof(x));
  for (int half = 0; half < 2; ++half) {
    Doubles sum;
    __builtin_memcpy(&sum, to + half * kWidth / 2, sizeof(sum));
    sum += __builtin_convertvector(halves[half], Doubles);
    __builtin_memcpy(to + half * kWidth / 2, &sum, sizeof(sum));
  }
}

/// e^x for x <= 88, and x as it was taken: at least kNothing. 0 below that, NaN for NaN.
MOETAP_ALWAYS_INLINE Reals exponential(const Reals& x, Reals& taken) {
  const Ints is_nothing = x < kNothing;
  taken = is_nothing ? all(kNothing) : x;
  // x = n ln 2 + r, |r| <= ln(2) / 2; adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Reals shifted = taken * 0x1.715476p0F + 0x1.8p23F;
  const Reals n = shifted - 0x1.8p23F;
  const Reals r = (taken - n * 0x1.62e4p-1F) - n * 0x1.7f7d1cp-20F;
  // Taylor series: the first term left out is below 2^-27.
  Reals series = r * (1.0F / 5040.0F) + 1.0F / 720.0F;
  series = series * r + 1.0F / 120.0F;
  series = series * r + 1.0F / 24.0F;
  series = series * r + 1.0F / 6.0F;
  series = series * r + 0.5F;
  series = series * r + 1.0F;
  series = series * r + 1.0F;
  const Reals power_of_two = reinterpret_cast<Reals>((reinterpret_cast<Ints>(shifted) + 127) << 23);
  return is_nothing ? Reals{} : series * power_of_two;
}

/// ln x; -inf for 0 (and for what is no normal number), NaN for x < 0 and for NaN.
MOETAP_ALWAYS_INLINE Reals logarithm(const Reals& x) {
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)).
  constexpr int32_t kSqrtHalf = 0x3f3504f3, kOne = 0x3f800000;
  const Ints bits = reinterpret_cast<Ints>(x);
  const Ints k = (bits - kSqrtHalf) >> 23;
  const Reals m = reinterpret_cast<Reals>(bits - (k << 23));
  // ln m = 2 atanh(f); f^2 <= 0.0295, the first term left out is below 2^-27.
  const Reals f = (m - 1.0F) / (m + 1.0F);
  const Reals s = f * f;
  Reals series = s * (1.0F / 9.0F) + 1.0F / 7.0F;
  series = series * s + 1.0F / 5.0F;
  series = series * s + 1.0F / 3.0F;
  const Reals twice = f * 2.0F;
  const Reals exponent = __builtin_convertvector(k, Reals);
  const Reals result = exponent * 0x1.62e4p-1F + (twice + (twice * s * series + exponent * 0x1.7f7d1cp-20F));
  static_assert(kOne > kSqrtHalf);
  const Reals finite = x < std::numeric_limits<float>::min() ? all(-kInfinity) : result;
  return (x >= 0.0F) & (x < kInfinity) ? finite : (x == kInfinity ? all(kInfinity) : all(__builtin_nanf("")));
}

/// One register of lanes after the other.
template <typename Function>
MOETAP_ALWAYS_INLINE void each_vector(int64_t lanes, const Function& function) {
  for (int64_t lane = 0; lane < lanes; lane += kWidth) function(lane);
}

struct SetKernels {
  static void widen(const void* from, RealFormat format, int64_t n, float* to) {
    if (format == RealFormat::kFloat) {
      __builtin_memcpy(to, from, n * sizeof(float));
    } else if (format == RealFormat::kDouble) {
      for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(static_cast<const double*>(from)[i]);
    } else if (format == RealFormat::kBFloat16) {
      const auto* elements = static_cast<const uint16_t*>(from);
      for (int64_t i = 0; i < n; ++i) to[i] = __builtin_bit_cast(float, uint32_t{elements[i]} << 16);
    } else {
      // The exponent is moved by a multiplication, which also makes normal numbers of subnormal ones; what was infinite
      // or NaN lies at or above 2^16 then, and gets the largest exponent.
      const auto* elements = static_cast<const uint16_t*>(from);
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t magnitude = elements[i] & 0x7fffU, sign = (elements[i] & 0x8000U) << 16;
        const uint32_t bits = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude << 13) * 0x1p112F);
        to[i] = __builtin_bit_cast(float, (magnitude >= 0x7c00U ? bits | 0x7f800000U : bits) | sign);
      }
    }
  }

  /// kVectors registers of lanes, kKeys keys.
  template <int kVectors, int kKeys>
  MOETAP_ALWAYS_INLINE static void multiply(int64_t pitch, const float* query, const float* key, int64_t key_pitch,
                                            int64_t depth, bool add, float* scores) {
    Reals sums[kKeys][kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[j][v] = add ? load(scores + j * pitch + v * kWidth) : Reals{};
    }
    for (int64_t d = 0; d < depth; ++d) {
      Reals q[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) q[v] = load(query + d * pitch + v * kWidth);
#pragma GCC unroll 16
      for (int j = 0; j < kKeys; ++j) {
        const Reals k = all(key[j * key_pitch + d]);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[j][v] += q[v] * k;
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) store(sums[j][v], scores + j * pitch + v * kWidth);
    }
  }

  static void scores(AttentionTile tile, const float* query, const float* key, int64_t key_pitch, int64_t depth,
                     bool add, float* scores) {
    // As many sums as registers hold, beside what they are made of: AVX-512 has 32, the others 16.
    constexpr int kKeys = kWidth == 16 ? 8 : 4, kVectors = 2;
    static_assert(kKeyGroup % kKeys == 0);
    for (int64_t lane = 0; lane < tile.lanes;) {
      const bool both = tile.lanes - lane >= kVectors * kWidth;
      for (int64_t j = 0; j < tile.keys; j += kKeys) {
        const float* keys = key + j * key_pitch;
        float* to = scores + j * tile.pitch + lane;
        if (both) multiply<kVectors, kKeys>(tile.pitch, query + lane, keys, key_pitch, depth, add, to);
        if (!both) multiply<1, kKeys>(tile.pitch, query + lane, keys, key_pitch, depth, add, to);
      }
      lane += (both ? kVectors : 1) * kWidth;
    }
  }

  static void add(AttentionTile tile, const float* mask, float* scores) {
    for (int64_t j = 0; j < tile.keys; ++j) {
      each_vector(
          tile.lanes, [&](int64_t lane) __attribute__((always_inline)) {
            float* score = scores + j * tile.pitch + lane;
            store(load(score) + load(mask + j * tile.pitch + lane), score);
          });
    }
  }

  static void softmax(AttentionTile tile, const float* scores, float* largest, double* sum) {
    each_vector(
        tile.lanes, [&](int64_t lane) __attribute__((always_inline)) {
          const Reals before = load(largest + lane);
          Reals now = before;
          for (int64_t j = 0; j < tile.keys; ++j) now = largest_of(load(scores + j * tile.pitch + lane), now);
          store(now, largest + lane);
          const Reals shift = largest_of(now, all(kLowest));  // a difference of infinities would be NaN
          Reals taken, added{};
          const Reals factor = exponential(before - shift, taken);
          for (int64_t j = 0; j < tile.keys; ++j) {
            added += exponential(load(scores + j * tile.pitch + lane) - shift, taken);
          }
          float factors[kWidth];
          store(factor, factors);
          for (int i = 0; i < kWidth; ++i) sum[lane + i] *= factors[i];
          add_to_doubles(added, sum + lane);
        });
  }

  static void attend(AttentionTile tile, const float* scores, const float* shift, const float* log_sum,
                     const float* query_position, const float* key_position, const HeadLanes& sums, float* mean,
                     float* raw, const float* mass) {
    each_vector(
        tile.lanes, [&](int64_t lane) __attribute__((always_inline)) {
          const Reals lane_shift = load(shift + lane), lane_log = load(log_sum + lane), i = load(query_position + lane);
          Reals total{}, products{}, distance{}, largest = load(sums.largest + lane);
          for (int64_t j = 0; j < tile.keys; ++j) {
            const Reals score = load(scores + j * tile.pitch + lane);
            largest = largest_of(score, largest);
            Reals log;
            const Reals p = exponential((score - lane_shift) - lane_log, log);
            total += p;
            products += p * log;
            distance += p * absolute(i - key_position[j]);
            float* to = mean + j * tile.pitch + lane;
            store(load(to) + p, to);
          }
          store(largest, sums.largest + lane);
          add_to_doubles(total, sums.mass + lane);
          add_to_doubles(products, sums.products + lane);
          add_to_doubles(distance, sums.distance + lane);
          if (raw == nullptr) return;
          const Reals factor = load(mass + lane);
          for (int64_t j = 0; j < tile.keys; ++j) {
            Reals log;
            float* to = raw + j * tile.pitch + lane;
            const Reals score = load(scores + j * tile.pitch + lane);
            store(load(to) + exponential((score - lane_shift) - lane_log, log) * factor, to);
          }
        });
  }

  static void distances(AttentionTile tile, const float* mean, const float* query_position, const float* key_position,
                        float half, const DistanceLanes& sums) {
    each_vector(
        tile.lanes, [&](int64_t lane) __attribute__((always_inline)) {
          const Reals i = load(query_position + lane);
          Reals distance{}, self{}, diagonal{}, far{};
          for (int64_t j = 0; j < tile.keys; ++j) {
            const Reals p = load(mean + j * tile.pitch + lane);
            const Reals away = absolute(i - key_position[j]);
            distance += p * away;
            self += away == 0.0F ? p : Reals{};
            diagonal += away <= 5.0F ? p : Reals{};
            far += away > half ? p : Reals{};
          }
          add_to_doubles(distance, sums.distance + lane);
          add_to_doubles(self, sums.self + lane);
          add_to_doubles(diagonal, sums.diagonal + lane);
          add_to_doubles(far, sums.far + lane);
        });
  }

  static void sum_keys(AttentionTile tile, const float* mean, float* sums) {
    each_vector(
        tile.lanes, [&](int64_t lane) __attribute__((always_inline)) {
          Reals sum{};
          for (int64_t j = 0; j < tile.keys; ++j) sum += load(mean + j * tile.pitch + lane);
          store(sum, sums + lane);
        });
  }

  static void sum_lanes(AttentionTile tile, const float* mean, float* sums) {
    // In groups of kLaneGroup lanes, so that groups of zeros change no bit.
    for (int64_t j = 0; j < tile.keys; ++j) {
      float total[kLaneGroup] = {};
      for (int64_t lane = 0; lane < tile.lanes; lane += kLaneGroup) {
        for (int64_t i = 0; i < kLaneGroup; ++i) total[i] += mean[j * tile.pitch + lane + i];
      }
      for (int64_t half = kLaneGroup / 2; half > 0; half /= 2) {
        for (int64_t i = 0; i < half; ++i) total[i] += total[half + i];
      }
      sums[j] = total[0];
    }
  }

  static void logarithms(AttentionTile tile, float* values) {
    for (int64_t j = 0; j < tile.keys; ++j) {
      each_vector(
          tile.lanes, [&](int64_t lane) __attribute__((always_inline)) {
            float* value = values + j * tile.pitch + lane;
            store(logarithm(load(value)), value);
          });
    }
  }
};

}  // namespace
}  // namespace moetap::analysis
