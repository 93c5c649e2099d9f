#pragma once

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/lane_math.h"
#include "analysis/numbers/lanes.h"
#include "analysis/numbers/share_entropies.h"
#include "analysis/numbers/slot_kernels_of_set.h"
#include "analysis/numbers/token_kernels.h"
#include "analysis/numbers/vector_math.h"

// The kernels of one instruction set. A file that includes this one is compiled with its own options (see
// CMakeLists.txt), so nothing here may be shared with other files: it calls only functions that are always inlined.
namespace moetap::analysis {
namespace {

MOETAP_ALWAYS_INLINE void pad(double* values, int64_t n, int64_t count, double value) {
  const int64_t size = padded_size(n);
  for (int64_t token = 0; token < count; ++token) {
    for (int64_t i = n; i < size; ++i) values[token * size + i] = value;
  }
}

/// The largest value of each token; NaN is passed over. The padding must be no larger than the largest value.
template <typename Group>
MOETAP_ALWAYS_INLINE void find_largest(const double* values, int64_t size, double* of_tokens) {
  Group largest(-kInfinity);
  for (int64_t i = 0; i < size; i += kLanes) {
    Group x;
    load(values + i, size, x);
    largest = larger(x, largest);
  }
  join(largest, Maximum(), of_tokens);
}

/// The first place of the largest value of each token; 0 if it is NaN.
template <typename Group>
MOETAP_ALWAYS_INLINE void find_places(const double* values, int64_t size, const double* largest, int64_t* of_tokens) {
  constexpr double kPlaces[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7};
  Lanes places;
  load(kPlaces, 0, places);
  Group highest, first(kInfinity);
  broadcast(largest, highest);
  // From the last to the first, so that the first one stays.
  places = places + static_cast<double>(size - kLanes);
  for (int64_t i = size - kLanes; i >= 0; i -= kLanes) {
    Group x, own;
    load(values + i, size, x);
    repeat(places, own);
    first = select(x == highest, own, first);
    places = places - static_cast<double>(kLanes);
  }
  double found[kTokensOf<Group>];
  join(first, Minimum(), found);
  for (int token = 0; token < kTokensOf<Group>; ++token) {
    of_tokens[token] = found[token] < kInfinity ? static_cast<int64_t>(found[token]) : 0;
  }
}

/// Sums over the experts of each token; d = x - max <= 0.
struct PowerSums {
  OfTokens largest{0.0};   // max
  OfTokens total{1.0};     // sum of e^d
  OfTokens products{0.0};  // sum of d e^d
};

/// Replaces logits x by e^d.
template <typename Group>
MOETAP_ALWAYS_INLINE void powers_of(double* values, int64_t size, int64_t token, PowerSums& sums) {
  Group largest, total(0.0), products(0.0);
  broadcast(sums.largest.values + token, largest);
  for (int64_t i = 0; i < size; i += kLanes) {
    Group x;
    load(values + i, size, x);
    const Group distance = larger(Group(kSmallestExponent), x - largest);  // finite, so that 0 * inf is not added
    const Group power = exp_nonpositive_coarse(distance);
    store(power, values + i, size);
    total = total + power;
    products = fused(distance, power, products);
  }
  join(total, Sum(), sums.total.values + token);
  join(products, Sum(), sums.products.values + token);
}

/// Adds power * scale of each token in fixed point to sums[0..n); gives sum min(power, limit) of each token.
template <typename Group>
MOETAP_ALWAYS_INLINE void add_powers(const double* powers, int64_t n, const double* scales, const double* limits,
                                     int64_t* sums, double* below_limit) {
  const int64_t size = padded_size(n);
  Group scale, limit, below(0.0);
  broadcast(scales, scale);
  broadcast(limits, limit);
  const auto add = [&](int64_t i, double* words) __attribute__((always_inline)) {
    Group power;
    load(powers + i, size, power);
    below = below + smaller(power, limit);
    Lanes before;
    load(words, 0, before);
    const LanesBits units = sum_of_tokens(to_bits(fused(power, scale, Group(kRounder))));
    store(from_bits(to_bits(before) + (units - kTokensOf<Group> * kRounderBits)), words, 0);
  };
  int64_t i = 0;
  // The bits of a word are moved as those of a double.
  for (; i + kLanes <= n; i += kLanes) add(i, reinterpret_cast<double*>(sums + i));
  if (i < n) {
    double words[kLanes] = {};
    __builtin_memcpy(words, sums + i, (n - i) * sizeof(double));
    add(i, words);
    __builtin_memcpy(sums + i, words, (n - i) * sizeof(double));
  }
  join(below, Sum(), below_limit);
}

struct SetKernels {
  template <typename From, typename Widen>
  MOETAP_ALWAYS_INLINE static void widen_each(const void* const* tokens, int64_t count, int64_t n, double* values,
                                              const Widen& widened) {
    for (int64_t token = 0; token < count; ++token) {
      const From* elements = static_cast<const From*>(tokens[token]);
      for (int64_t i = 0; i < n; ++i) values[i] = widened(elements[i]);
      values += padded_size(n);
    }
  }

  static void widen(const void* const* tokens, int64_t count, RealFormat format, int64_t n, double* values) {
    switch (format) {
      case RealFormat::kFloat:
        return widen_each<float>(
            tokens, count, n, values, [](float x) __attribute__((always_inline)) { return double{x}; });
      case RealFormat::kDouble:
        return widen_each<double>(
            tokens, count, n, values, [](double x) __attribute__((always_inline)) { return x; });
      case RealFormat::kBFloat16:
        return widen_each<uint16_t>(
            tokens, count, n, values, [](uint16_t x) __attribute__((always_inline)) {
              return double{__builtin_bit_cast(float, uint32_t{x} << 16)};
            });
      case RealFormat::kHalf:
        // The exponent is moved by a multiplication; a subnormal number is the difference of two normal ones.
        return widen_each<uint16_t>(
            tokens, count, n, values, [](uint16_t x) __attribute__((always_inline)) {
              const uint32_t magnitude = x & 0x7fffU, sign = (x & 0x8000U) << 16;
              const float normal = __builtin_bit_cast(float, (magnitude << 13) + (0xe0U << 23)) * 0x1p-112F;
              const float subnormal = __builtin_bit_cast(float, magnitude | (126U << 23)) - 0.5F;
              const float absolute = magnitude < 0x400U ? subnormal : normal;
              return double{__builtin_bit_cast(float, __builtin_bit_cast(uint32_t, absolute) | sign)};
            });
    }
  }

  // With d = x - max and p = e^d / S the entropy is ln S - sum(d e^d) / S, a sum without cancellation and without a
  // logarithm an expert. LibMoE's 1e-9 lowers it by sum p ln(1 + 1e-9 / p), which min(p, 1e-9) meets to 3.1e-10 an
  // expert. Where that is more than 5e-7 of the entropy, each expert has its logarithm.
  static void softmax(double* values, int64_t n, int64_t count, int64_t* const* sums, SoftmaxTerms& terms) {
    const int64_t size = padded_size(n);
    PowerSums powers;
    pad(values, n, count, -kInfinity);
    // Loop after loop, since each waits for the whole of the one before.
    in_groups(
        count, [&](auto group, int64_t token) __attribute__((always_inline)) {
          find_largest<decltype(group)>(values + token * size, size, powers.largest.values + token);
        });
    in_groups(
        count, [&](auto group, int64_t token) __attribute__((always_inline)) {
          const double* largest = powers.largest.values + token;
          find_places<decltype(group)>(values + token * size, size, largest, terms.largest + token);
        });
    in_groups(
        count, [&](auto group, int64_t token) __attribute__((always_inline)) {
          powers_of<decltype(group)>(values + token * size, size, token, powers);
        });
    const Lanes total = powers.total.lanes(), inverse = Lanes(1.0) / total;
    OfTokens scales(0.0), limits(0.0), below(0.0);
    store(inverse * kFixedPointScale, scales.values, 0);
    store(total * kEpsilon, limits.values, 0);
    // The largest logit adds 1, so a smaller sum comes from a NaN: a logit's, or that of inf - inf.
    for (int64_t token = 0; token < kMaxGroup; ++token) terms.in_range[token] = powers.total.values[token] >= 1;
    for (int64_t token = 0, of_run = 0; token < count; token += of_run) {
      of_run = 1;
      if (sums[token] == nullptr || !terms.in_range[token]) continue;
      while (token + of_run < count && terms.in_range[token + of_run] && sums[token + of_run] == sums[token]) ++of_run;
      in_groups(
          of_run, [&](auto group, int64_t of_group) __attribute__((always_inline)) {
            const int64_t first = token + of_group;
            add_powers<decltype(group)>(values + first * size, n, scales.values + first, limits.values + first,
                                        sums[first], below.values + first);
          });
    }
    const Lanes log_total = log_positive_coarse(total);
    store(powers.largest.lanes() + log_total, terms.log_sum_exp, 0);
    const Lanes entropy = log_total - (powers.products.lanes() + below.lanes()) * inverse;
    store(larger(entropy, Lanes(0.0)), terms.entropy, 0);
    const double small = static_cast<double>(n) * (3.1e-10 / 5e-7);
    for (int64_t token = 0; token < count; ++token) {
      if (sums[token] == nullptr || !terms.in_range[token] || !(terms.entropy[token] < small)) continue;
      terms.entropy[token] = small_entropy(values + token * size, n, powers.total.values[token]);
    }
  }

  static __attribute__((noinline)) double small_entropy(const double* powers, int64_t n, double total) {
    const Lanes scale = Lanes(1.0) / Lanes(total);
    Lanes products(0.0);
    for (int64_t i = 0; i < padded_size(n); i += kLanes) {
      Lanes power;
      load(powers + i, 0, power);
      products = entropy_product(power, Lanes(1.0), scale, products);
    }
    double sum;
    join(products, Sum(), &sum);
    return sum < 0 ? -sum : 0;
  }

  static void entropy(double* values, int64_t n, int64_t count, double limit, EntropyTerms& terms) {
    const int64_t size = padded_size(n);
    pad(values, n, count, 0);
    ShareSums sums;
    in_groups(
        count, [&](auto group, int64_t token) __attribute__((always_inline)) {
          decltype(group) total(0.0), misfits(0.0), x;
          for (int64_t i = 0; i < size; i += kLanes) {
            load(values + token * size + i, size, x);
            total = total + x;
            misfits = unfit(x, limit, misfits);
          }
          join(total, Sum(), sums.total.values + token);
          join(misfits, Sum(), sums.misfits.values + token);
        });
    const ShareScale share(sums.total.lanes());
    OfTokens scales(0.0), enlargements(0.0);
    store(share.scale, scales.values, 0);
    store(share.enlargement, enlargements.values, 0);
    in_groups(
        count, [&](auto group, int64_t token) __attribute__((always_inline)) {
          decltype(group) scale, enlargement, x, products(0.0);
          broadcast(scales.values + token, scale);
          broadcast(enlargements.values + token, enlargement);
          for (int64_t i = 0; i < size; i += kLanes) {
            load(values + token * size + i, size, x);
            products = entropy_product(x, enlargement, scale, products);
          }
          join(products, Sum(), sums.products.values + token);
        });
    finish_entropies(sums.total.lanes(), sums.misfits.lanes(), sums.products.lanes(), terms);
  }

  static int64_t largest(double* values, int64_t n) {
    pad(values, n, 1, -kInfinity);
    double highest;
    find_largest<Lanes>(values, padded_size(n), &highest);
    int64_t place;
    find_places<Lanes>(values, padded_size(n), &highest, &place);
    return place;
  }

  static void sigmoid(double* values, int64_t n) {
    for (int64_t i = 0; i < padded_size(n); i += kLanes) {
      Lanes x;
      load(values + i, 0, x);
      const auto is_negative = x < 0.0;
      const Lanes distance = select(is_negative, x, x * -1.0), bound = larger(Lanes(kSmallestExponent), distance);
      const Lanes power = select(distance < kSmallestExponent, Lanes(0.0), exp_nonpositive_coarse(bound));
      store(select(is_negative, power, Lanes(1.0)) / (power + 1.0), values + i, 0);
    }
  }

  static void add_fixed_point(const double* values, int64_t n, int64_t count, int64_t* sums) {
    const int64_t size = padded_size(n);
    for (int64_t token = 0; token < count; ++token) {
      for (int64_t i = 0; i < n; ++i) {
        sums[i] += static_cast<int64_t>(to_bits(values[token * size + i] * kFixedPointScale + kRounder) - kRounderBits);
      }
    }
  }

  // floor(y) by additions, exact for |y| < 2^51.
  static void to_limbs(const double* values, int64_t n, int64_t* high, int64_t* low) {
    for (int64_t i = 0; i < n; ++i) {
      const double units = values[i] * kUnitsPerHigh;
      const double nearest = (units + kRounder) - kRounder;
      const double hi = nearest > units ? nearest - 1.0 : nearest;
      const double rest = (values[i] - hi / kUnitsPerHigh) * kFixedPointScale;
      high[i] = static_cast<int64_t>(to_bits(hi + kRounder) - kRounderBits);
      low[i] = static_cast<int64_t>(to_bits(rest + kRounder) - kRounderBits);
    }
  }

  static constexpr TokenKernels kernels() {
    return {widen,
            softmax,
            entropy,
            largest,
            sigmoid,
            add_fixed_point,
            to_limbs,
            SlotKernels::read,
            SlotKernels::rank,
            SlotKernels::add_common,
            4};
  }

  /// function(group, first token), with the widest groups that fit; the value of `group` means nothing.
  template <typename Function>
  MOETAP_ALWAYS_INLINE static void in_groups(int64_t count, const Function& function) {
    int64_t token = 0;
    for (; count - token >= kTokensOf<MOETAP_WIDEST_GROUP>; token += kTokensOf<MOETAP_WIDEST_GROUP>) {
      function(MOETAP_WIDEST_GROUP(), token);
    }
    for (; token < count; ++token) function(Lanes(), token);
  }
};

}  // namespace
}  // namespace moetap::analysis
