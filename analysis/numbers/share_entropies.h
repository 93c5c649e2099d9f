#pragma once

#include <limits>

#include "analysis/numbers/lane_math.h"
#include "analysis/numbers/lanes.h"
#include "analysis/numbers/token_kernels.h"

// Entropies of values that are divided by their sum: what the kernels of one instruction set share.
namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kEpsilon = 1e-9;  // LibMoE's, within the logarithm

/// One value a token, of up to kMaxGroup tokens side by side.
struct alignas(64) OfTokens {
  double values[kMaxGroup];

  MOETAP_ALWAYS_INLINE explicit OfTokens(double value) {
    for (double& v : values) v = value;
  }
  MOETAP_ALWAYS_INLINE Lanes lanes() const {
    Lanes lanes;
    load(values, 0, lanes);
    return lanes;
  }
};
static_assert(kMaxGroup == kLanes, "the values of the tokens at hand are one group of lanes");

/// Sums of what an entropy is computed from.
struct ShareSums {
  OfTokens total{0.0};
  OfTokens misfits{0.0};
  OfTokens products{0.0};  // sum of q ln(q + 1e-9)
};

/// What values are multiplied with to have the sum 1. 1 / total would be infinite for a subnormal total, so values are
/// scaled up first.
struct ShareScale {
  Lanes enlargement, scale;

  MOETAP_ALWAYS_INLINE explicit ShareScale(const Lanes& total)
      : enlargement(select(total < 0x1p-1000, Lanes(0x1p500), Lanes(1.0))), scale(Lanes(1.0) / (total * enlargement)) {}
};

template <typename Group>
MOETAP_ALWAYS_INLINE Group entropy_product(const Group& x, const Group& enlargement, const Group& scale,
                                           const Group& products) {
  const Group q = x * enlargement * scale;
  return fused(q, log_positive_coarse(q + kEpsilon), products);
}

template <typename Group>
MOETAP_ALWAYS_INLINE Group unfit(const Group& x, double limit, const Group& before) {
  return before + select((x >= 0.0) & (x <= limit), Group(0.0), Group(1.0));  // 1 for NaN too
}

/// The entropies of values that are not all 0, and whether they are in range.
MOETAP_ALWAYS_INLINE void finish_entropies(const Lanes& total, const Lanes& misfits, const Lanes& products,
                                           EntropyTerms& terms) {
  store(select(total <= 0.0, Lanes(0.0), larger(products * -1.0, Lanes(0.0))), terms.entropy, 0);
  double fits[kLanes];
  store(select((misfits <= 0.0) & (total < kInfinity), Lanes(1.0), Lanes(0.0)), fits, 0);
  for (int64_t token = 0; token < kMaxGroup; ++token) terms.in_range[token] = fits[token] > 0;
}

}  // namespace
}  // namespace moetap::analysis
