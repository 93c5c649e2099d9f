#include "analysis/numbers/token_kernels.h"

#include <bit>
#include <limits>

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/vector_math.h"

// Note [Lanes]
// A sum over experts is eight partial sums (lane l adds experts l, l + 8, ...) that are joined in one fixed order. That
// is the order of eight-wide vectors. Since it is written out, narrower vectors give the same bits: a token's values do
// not depend on the processor, nor on the tokens around it.
//
// This file includes nothing of LibTorch: it is compiled with its own options (see CMakeLists.txt).
#define MOETAP_ALWAYS_INLINE inline __attribute__((always_inline))

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kEpsilon = 1e-9;  // LibMoE's, within the logarithm

MOETAP_ALWAYS_INLINE double join(const double (&lanes)[kLanes]) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

MOETAP_ALWAYS_INLINE void pad(double* values, int64_t n, double value) {
  for (int64_t i = n; i < padded_size(n); ++i) values[i] = value;
}

/// -sum q ln(q + 1e-9) with q = values * scale, not negative.
MOETAP_ALWAYS_INLINE double entropy_of(const double* values, int64_t n, double scale) {
  double lanes[kLanes] = {};
  for (int64_t i = 0; i < padded_size(n); i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double q = values[i + lane] * scale;
      lanes[lane] += q * log_positive(q + kEpsilon);
    }
  }
  const double entropy = -join(lanes);
  return entropy > 0 ? entropy : 0;
}

struct Largest {
  double value;
  int64_t index;
};

/// The largest value and its first place; NaN is passed over. The padding must be no larger than the largest value.
MOETAP_ALWAYS_INLINE Largest find_largest(const double* values, int64_t n) {
  double lanes[kLanes];
  for (double& lane : lanes) lane = -kInfinity;
  for (int64_t i = 0; i < padded_size(n); i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
  }
  double largest = lanes[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;

  // From the end to the start, so that a lane is left with its first place.
  double places[kLanes];
  for (double& place : places) place = kInfinity;
  for (int64_t i = padded_size(n) - kLanes; i >= 0; i -= kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      places[lane] = values[i + lane] == largest ? static_cast<double>(i) + static_cast<double>(lane) : places[lane];
    }
  }
  double place = places[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) place = places[lane] < place ? places[lane] : place;
  return Largest{largest, place < kInfinity ? static_cast<int64_t>(place) : 0};
}

MOETAP_ALWAYS_INLINE SoftmaxTerms softmax_body(double* values, int64_t n) {
  pad(values, n, -kInfinity);
  const Largest largest = find_largest(values, n);

  double lanes[kLanes] = {};
  for (int64_t i = 0; i < padded_size(n); i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double power = exp_nonpositive(values[i + lane] - largest.value);
      values[i + lane] = power;
      lanes[lane] += power;
    }
  }
  // The largest logit adds 1, so a smaller sum comes from a NaN: a logit's, or that of inf - inf.
  const double sum = join(lanes);
  if (!(sum >= 1)) return SoftmaxTerms{};
  const double scale = 1 / sum;
  for (int64_t i = 0; i < padded_size(n); ++i) values[i] *= scale;
  return SoftmaxTerms{true, largest.index, largest.value + log_positive(sum), entropy_of(values, n, 1.0)};
}

MOETAP_ALWAYS_INLINE EntropyTerms entropy_body(double* values, int64_t n) {
  pad(values, n, 0);
  double sums[kLanes] = {};
  double unfit[kLanes] = {};
  for (int64_t i = 0; i < padded_size(n); i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += values[i + lane];
      unfit[lane] += values[i + lane] >= 0 ? 0.0 : 1.0;  // 1 for NaN too
    }
  }
  const double sum = join(sums);
  if (join(unfit) > 0 || !(sum < kInfinity)) return EntropyTerms{};
  const int64_t largest = find_largest(values, n).index;
  if (sum == 0) return EntropyTerms{true, largest, 0};
  // 1 / sum would be infinite for a subnormal sum, so such values are scaled up first.
  if (sum < 0x1p-1000) {
    for (int64_t i = 0; i < padded_size(n); ++i) values[i] *= 0x1p500;
    return EntropyTerms{true, largest, entropy_of(values, n, 1 / (sum * 0x1p500))};
  }
  return EntropyTerms{true, largest, entropy_of(values, n, 1 / sum)};
}

MOETAP_ALWAYS_INLINE void sigmoid_body(double* values, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = values[i];
    const double power = exp_nonpositive(x < 0 ? x : -x);
    values[i] = (x < 0 ? power : 1.0) / (1 + power);
  }
}

MOETAP_ALWAYS_INLINE void add_fixed_point_body(const double* values, int64_t n, int64_t* sums) {
  for (int64_t i = 0; i < n; ++i) {
    const double rounded = values[i] * kFixedPointScale + 0x1.8p52;
    sums[i] += std::bit_cast<int64_t>(rounded) - std::bit_cast<int64_t>(0x1.8p52);
  }
}

// The bodies above are compiled once for each instruction set.
#define MOETAP_TOKEN_KERNELS(NAME, TARGET)                                                                       \
  struct NAME {                                                                                                  \
    TARGET static SoftmaxTerms softmax(double* values, int64_t n) { return softmax_body(values, n); }            \
    TARGET static EntropyTerms entropy(double* values, int64_t n) { return entropy_body(values, n); }            \
    TARGET static void sigmoid(double* values, int64_t n) { sigmoid_body(values, n); }                           \
    TARGET static void add_fixed_point(const double* values, int64_t n, int64_t* sums) {                         \
      add_fixed_point_body(values, n, sums);                                                                     \
    }                                                                                                            \
    static constexpr TokenKernels kernels() { return TokenKernels{softmax, entropy, sigmoid, add_fixed_point}; } \
  };

MOETAP_TOKEN_KERNELS(BaselineKernels, )
#if defined(__x86_64__)
MOETAP_TOKEN_KERNELS(Avx2Kernels, __attribute__((target("avx2"))))
MOETAP_TOKEN_KERNELS(Avx512Kernels, __attribute__((target("avx512f,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif

}  // namespace

TokenKernelChoices available_token_kernels() {
  TokenKernelChoices choices{{{"baseline", BaselineKernels::kernels()}, {}, {}}, 1};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) choices.items[choices.size++] = {"avx2", Avx2Kernels::kernels()};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    choices.items[choices.size++] = {"avx512", Avx512Kernels::kernels()};
  }
#endif
  return choices;
}

const TokenKernels& token_kernels() {
  static const TokenKernels widest = [] {
    const TokenKernelChoices choices = available_token_kernels();
    return choices.items[choices.size - 1].kernels;
  }();
  return widest;
}

}  // namespace moetap::analysis
