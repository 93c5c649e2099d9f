#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <limits>

#include "analysis/numbers/fixed_point.h"
#include "analysis/numbers/vector_math.h"
#include "analysis/numbers/warp.cuh"
#include "analysis/routers/router_kernel_arguments.h"

// How one warp measures the experts of one token. Lane l holds the experts l, l + 32, ... in registers. A sum over
// experts adds each lane's own in that order, then the lanes by a butterfly: one fixed order for any launch.
namespace moetap::analysis::router_kernel {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kEpsilon = 1e-9;  // LibMoE's, within the logarithm

MOETAP_DEVICE inline double element(const RealMatrix& matrix, int64_t token, int64_t column) {
  const int64_t place = token * matrix.token_stride + column * matrix.column_stride;
  switch (matrix.type) {
    case RealType::kFloat:
      return static_cast<const float*>(matrix.data)[place];
    case RealType::kHalf:
      return static_cast<float>(static_cast<const c10::Half*>(matrix.data)[place]);
    case RealType::kBFloat16:
      return static_cast<float>(static_cast<const c10::BFloat16*>(matrix.data)[place]);
    case RealType::kDouble:
      return static_cast<const double*>(matrix.data)[place];
  }
  return 0;
}

MOETAP_DEVICE inline double sum_of_lanes(double value, int width = 32) {
  for (int mask = width / 2; mask > 0; mask /= 2) value += warp::from_lane_xor(value, mask);
  return value;
}

/// -q ln(q + 1e-9) of q >= 0, below infinity.
MOETAP_DEVICE inline double entropy_term(double q) {
  return -q * log_positive(q + kEpsilon);
}

/// q ln(1 + 1e-9 / q): by this much LibMoE's 1e-9 lowers an entropy. It is between 0 and 1e-9, so single precision is
/// enough.
MOETAP_DEVICE inline float entropy_correction(float q) {
  constexpr float kNothing = 1e-25f;  // below it the term is less than 1e-23
  return q > kNothing ? q * log1pf(1e-9f / q) : 0.0f;
}

struct LargestExpert {
  double value;
  int32_t expert;
};

/// The larger value, ties to the lower expert; NaN is passed over.
MOETAP_DEVICE inline LargestExpert largest_of_lanes(LargestExpert mine) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const LargestExpert other{warp::from_lane_xor(mine.value, mask), warp::from_lane_xor(mine.expert, mask)};
    if (other.value > mine.value || (other.value == mine.value && other.expert < mine.expert)) mine = other;
  }
  return mine;
}

/// The experts of one lane.
template <int kExperts>
struct ExpertValues {
  double values[kExperts];

  MOETAP_DEVICE static int expert(int i) { return warp::lane() + 32 * i; }

  /// `otherwise`: the value of places beyond the last expert.
  MOETAP_DEVICE void read(const RealMatrix& matrix, int64_t token, int num_experts, double otherwise) {
    MOETAP_UNROLL
    for (int i = 0; i < kExperts; ++i) {
      values[i] = expert(i) < num_experts ? element(matrix, token, expert(i)) : otherwise;
    }
  }

  MOETAP_DEVICE LargestExpert largest() const {
    LargestExpert mine{-kInfinity, std::numeric_limits<int32_t>::max()};
    MOETAP_UNROLL
    for (int i = 0; i < kExperts; ++i) {
      if (values[i] > mine.value) mine = {values[i], expert(i)};
    }
    return largest_of_lanes(mine);
  }
};

struct SoftmaxOfToken {
  bool in_range = false;
  int32_t largest = 0;
  double log_sum_exp = 0;
  double entropy = 0;
};

/// Replaces logits by their softmax; as TokenKernels::softmax. One exponential an expert and one logarithm a token:
/// with d = max - x >= 0 and q = e^-d / S the entropy is ln S + sum e^-d d / S, a sum without cancellation.
template <int kExperts>
MOETAP_DEVICE SoftmaxOfToken softmax_of_token(ExpertValues<kExperts>& experts, int num_experts) {
  using Values = ExpertValues<kExperts>;
  const LargestExpert largest = experts.largest();
  double others = 0, weighted = 0;  // sums over the experts but the largest
  bool is_number = true;
  MOETAP_UNROLL
  for (int i = 0; i < kExperts; ++i) {
    if (Values::expert(i) >= num_experts) {
      experts.values[i] = 0;
      continue;
    }
    const double distance = largest.value - experts.values[i];
    const double power = exp_nonpositive(-distance);
    is_number = is_number && power == power;
    experts.values[i] = power;
    if (Values::expert(i) == largest.expert) continue;
    others += power;
    weighted += power > 0 ? power * distance : 0;  // of a logit of -inf: nothing
  }
  others = sum_of_lanes(others);
  weighted = sum_of_lanes(weighted);
  // NaN comes from a logit, from inf - inf, or from logits that are all -inf.
  if (warp::ballot(!is_number) != 0) return {};
  const double scale = 1 / (1 + others);
  float correction = 0;
  MOETAP_UNROLL
  for (int i = 0; i < kExperts; ++i) {
    experts.values[i] *= scale;
    correction += entropy_correction(static_cast<float>(experts.values[i]));
  }
  const double log_sum = log_positive(1 + others);
  const double entropy = log_sum + weighted * scale - sum_of_lanes(static_cast<double>(correction));
  return {true, largest.expert, largest.value + log_sum, entropy > 0 ? entropy : 0};
}

struct EntropyOfToken {
  bool in_range = false;
  double entropy = 0;
};

/// H(v) with q = v / sum(v), as TokenKernels::entropy; `value(i)` is the lane's i-th of kValues, 0 for none.
template <int kValues, typename Value>
MOETAP_DEVICE EntropyOfToken entropy_of_token(const Value& value, int width = 32) {
  double sum = 0;
  bool fits = true;
  MOETAP_UNROLL
  for (int i = 0; i < kValues; ++i) {
    const double v = value(i);
    sum += v;
    fits = fits && v >= 0;
  }
  sum = sum_of_lanes(sum, width);
  if (warp::ballot(!fits) != 0 || !(warp::from_lane(sum, 0) < kInfinity)) return {};
  sum = warp::from_lane(sum, 0);
  if (sum == 0) return {true, 0};
  // 1 / sum would be infinite for a subnormal sum, so such values are scaled up first.
  const double enlarge = sum < 0x1p-1000 ? 0x1p500 : 1;
  const double scale = 1 / (sum * enlarge);
  double entropy = 0;
  MOETAP_UNROLL
  for (int i = 0; i < kValues; ++i) entropy += entropy_term(value(i) * enlarge * scale);
  entropy = warp::from_lane(sum_of_lanes(entropy, width), 0);
  return {true, entropy > 0 ? entropy : 0};
}

MOETAP_DEVICE inline double sigmoid(double x) {
  const double power = exp_nonpositive(x < 0 ? x : -x);
  return (x < 0 ? power : 1.0) / (1 + power);
}

}  // namespace moetap::analysis::router_kernel
