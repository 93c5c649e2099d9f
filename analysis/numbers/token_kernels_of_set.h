#pragma once

#include <limits>

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/lanes.h"
#include "analysis/numbers/token_kernels.h"
#include "analysis/numbers/vector_math.h"

// The kernels of one instruction set. A file that includes this one is compiled with its own options (see
// CMakeLists.txt), so nothing here may be shared with other files: it calls only functions that are always inlined.
namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kEpsilon = 1e-9;  // LibMoE's, within the logarithm

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
    largest = select(largest < x, x, largest);
  }
  join(largest, Maximum(), of_tokens);
}

/// The first places, by lane, of the largest value of each token.
template <typename Group>
class FirstPlaces {
 public:
  MOETAP_ALWAYS_INLINE FirstPlaces() : first_(kInfinity) {
    constexpr double kPlaces[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7};
    load(kPlaces, 0, places_);
  }

  /// The next eight values; `is_largest` is their mask.
  template <typename M>
  MOETAP_ALWAYS_INLINE void add(const M& is_largest) {
    Group places;
    repeat(places_, places);
    const Group found = select(is_largest, places, Group(kInfinity));
    first_ = select(found < first_, found, first_);
    places_ = places_ + static_cast<double>(kLanes);
  }

  MOETAP_ALWAYS_INLINE void get(int64_t* of_tokens) const {
    double places[kTokensOf<Group>];
    join(first_, Minimum(), places);
    for (int token = 0; token < kTokensOf<Group>; ++token) {
      of_tokens[token] = places[token] < kInfinity ? static_cast<int64_t>(places[token]) : 0;
    }
  }

 private:
  Group first_;
  Lanes places_;  // of the next eight values
};

template <int kCount>
MOETAP_ALWAYS_INLINE void logarithms(const double* of_tokens, double* out) {
  if constexpr (kCount == 1) {
    *out = log_positive(*of_tokens);
  } else {
    double values[kLanes] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (int token = 0; token < kCount; ++token) values[token] = of_tokens[token];
    Lanes lanes;
    load(values, 0, lanes);
    store(log_positive(lanes), values, 0);
    for (int token = 0; token < kCount; ++token) out[token] = values[token];
  }
}

template <typename Group>
MOETAP_ALWAYS_INLINE void softmax_of(double* values, int64_t n, SoftmaxTerms* terms) {
  constexpr int kCount = kTokensOf<Group>;
  const int64_t size = padded_size(n);
  pad(values, n, kCount, -kInfinity);
  int64_t places[kCount];
  double largest[kCount], sums[kCount], scales[kCount], entropies[kCount];
  find_largest<Group>(values, size, largest);

  FirstPlaces<Group> first_places;
  Group highest, lanes(0.0);
  broadcast(largest, highest);
  for (int64_t i = 0; i < size; i += kLanes) {
    Group x;
    load(values + i, size, x);
    first_places.add(x == highest);
    const Group power = exp_nonpositive(x - highest);
    store(power, values + i, size);
    lanes = lanes + power;
  }
  first_places.get(places);
  join(lanes, Sum(), sums);
  for (int token = 0; token < kCount; ++token) scales[token] = 1 / sums[token];

  Group scale, products(0.0);
  broadcast(scales, scale);
  for (int64_t i = 0; i < size; i += kLanes) {
    Group power;
    load(values + i, size, power);
    const Group q = power * scale;
    store(q, values + i, size);
    products = products + q * log_positive(q + kEpsilon);
  }
  join(products, Sum(), entropies);
  double logs[kCount];
  logarithms<kCount>(sums, logs);
  for (int token = 0; token < kCount; ++token) {
    // The largest logit adds 1, so a smaller sum comes from a NaN: a logit's, or that of inf - inf.
    terms[token] = SoftmaxTerms{sums[token] >= 1, places[token], largest[token] + logs[token],
                                -entropies[token] > 0 ? -entropies[token] : 0};
  }
}

template <typename Group>
MOETAP_ALWAYS_INLINE void entropy_of(double* values, int64_t n, double limit, EntropyTerms* terms) {
  constexpr int kCount = kTokensOf<Group>;
  const int64_t size = padded_size(n);
  pad(values, n, kCount, 0);
  double sums[kCount], misfits[kCount], scales[kCount], enlargements[kCount], entropies[kCount];
  Group lanes(0.0), unfit(0.0);
  for (int64_t i = 0; i < size; i += kLanes) {
    Group x;
    load(values + i, size, x);
    lanes = lanes + x;
    unfit = unfit + select((x >= 0.0) & (x <= limit), Group(0.0), Group(1.0));  // 1 for NaN too
  }
  join(lanes, Sum(), sums);
  join(unfit, Sum(), misfits);
  for (int token = 0; token < kCount; ++token) {
    // 1 / sum would be infinite for a subnormal sum, so such values are scaled up first.
    enlargements[token] = sums[token] < 0x1p-1000 ? 0x1p500 : 1;
    scales[token] = 1 / (sums[token] * enlargements[token]);
  }
  Group scale, enlargement, products(0.0);
  broadcast(scales, scale);
  broadcast(enlargements, enlargement);
  for (int64_t i = 0; i < size; i += kLanes) {
    Group x;
    load(values + i, size, x);
    const Group q = x * enlargement * scale;
    products = products + q * log_positive(q + kEpsilon);
  }
  join(products, Sum(), entropies);
  for (int token = 0; token < kCount; ++token) {
    const bool some = sums[token] > 0 && -entropies[token] > 0;
    terms[token] = EntropyTerms{!(misfits[token] > 0) && sums[token] < kInfinity, some ? -entropies[token] : 0};
  }
}

struct SetKernels {
  template <typename From, typename Widen>
  MOETAP_ALWAYS_INLINE static void widen_each(const void* from, int64_t n, double* values, const Widen& widened) {
    const From* elements = static_cast<const From*>(from);
    for (int64_t i = 0; i < n; ++i) values[i] = widened(elements[i]);
  }

  static void widen(const void* from, RealFormat format, int64_t n, double* values) {
    switch (format) {
      case RealFormat::kFloat:
        return widen_each<float>(
            from, n, values, [](float x) __attribute__((always_inline)) { return double{x}; });
      case RealFormat::kDouble:
        return widen_each<double>(
            from, n, values, [](double x) __attribute__((always_inline)) { return x; });
      case RealFormat::kBFloat16:
        return widen_each<uint16_t>(
            from, n, values, [](uint16_t x) __attribute__((always_inline)) {
              return double{__builtin_bit_cast(float, uint32_t{x} << 16)};
            });
      case RealFormat::kHalf:
        // The exponent is moved by a multiplication; a subnormal number is the difference of two normal ones.
        return widen_each<uint16_t>(
            from, n, values, [](uint16_t x) __attribute__((always_inline)) {
              const uint32_t magnitude = x & 0x7fffU, sign = (x & 0x8000U) << 16;
              const float normal = __builtin_bit_cast(float, (magnitude << 13) + (0xe0U << 23)) * 0x1p-112F;
              const float subnormal = __builtin_bit_cast(float, magnitude | (126U << 23)) - 0.5F;
              const float absolute = magnitude < 0x400U ? subnormal : normal;
              return double{__builtin_bit_cast(float, __builtin_bit_cast(uint32_t, absolute) | sign)};
            });
    }
  }

  static void softmax(double* values, int64_t n, int64_t count, SoftmaxTerms* terms) {
    in_groups(
        count, [&](auto group, int64_t token) __attribute__((always_inline)) {
          softmax_of<decltype(group)>(values + token * padded_size(n), n, terms + token);
        });
  }

  static void entropy(double* values, int64_t n, int64_t count, double limit, EntropyTerms* terms) {
    in_groups(
        count, [&](auto group, int64_t token) __attribute__((always_inline)) {
          entropy_of<decltype(group)>(values + token * padded_size(n), n, limit, terms + token);
        });
  }

  static int64_t largest(double* values, int64_t n) {
    pad(values, n, 1, -kInfinity);
    double highest;
    find_largest<Lanes>(values, padded_size(n), &highest);
    FirstPlaces<Lanes> places;
    for (int64_t i = 0; i < padded_size(n); i += kLanes) {
      Lanes x;
      load(values + i, 0, x);
      places.add(x == highest);
    }
    int64_t place;
    places.get(&place);
    return place;
  }

  static void sigmoid(double* values, int64_t n) {
    for (int64_t i = 0; i < padded_size(n); i += kLanes) {
      Lanes x;
      load(values + i, 0, x);
      const auto is_negative = x < 0.0;
      const Lanes power = exp_nonpositive(select(is_negative, x, x * -1.0));
      store(select(is_negative, power, Lanes(1.0)) / (power + 1.0), values + i, 0);
    }
  }

  static void add_fixed_point(const double* values, int64_t n, int64_t count, int64_t* sums) {
    const int64_t size = padded_size(n);
    for (int64_t token = 0; token < count; ++token) {
      for (int64_t i = 0; i < n; ++i) {
        sums[i] += static_cast<int64_t>(to_bits(values[token * size + i] * kFixedPointScale + 0x1.8p52) - kRounderBits);
      }
    }
  }

  // floor(y) by additions, exact for |y| < 2^51.
  static void to_limbs(const double* values, int64_t n, int64_t* high, int64_t* low) {
    for (int64_t i = 0; i < n; ++i) {
      const double units = values[i] * kUnitsPerHigh;
      const double nearest = (units + 0x1.8p52) - 0x1.8p52;
      const double hi = nearest > units ? nearest - 1.0 : nearest;
      const double rest = (values[i] - hi / kUnitsPerHigh) * kFixedPointScale;
      high[i] = static_cast<int64_t>(to_bits(hi + 0x1.8p52) - kRounderBits);
      low[i] = static_cast<int64_t>(to_bits(rest + 0x1.8p52) - kRounderBits);
    }
  }

  static constexpr TokenKernels kernels() {
    return {widen, softmax, entropy, largest, sigmoid, add_fixed_point, to_limbs};
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
