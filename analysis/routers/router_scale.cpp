#include "analysis/routers/router_scale.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace moetap::analysis {
namespace {

constexpr int64_t kIterations = 48;  // of conjugate gradients: experts that meet often need far fewer
constexpr int64_t kMinFreedom = 2;   // ratios beyond what any factors would fit

// Note [Factors of experts]
// log ratio[t, i] = a[t] + b[expert[t, i]]. For given b, the best a[t] is the mean over the token's slots of log ratio
// - b. With these a, the best b solves L b = v, where L is the Laplacian of the graph in which experts are joined that
// meet in a token: L = D - M^T diag(1 / k) M, with M[t, e] = 1 where the token selected the expert, k[t] its number of
// slots and D[e] the number of tokens of the expert. Its null space, one factor for all experts of a component, is left
// alone by conjugate gradients from zero.

/// Solves L b = v.
at::Tensor conjugate_gradients(const at::Tensor& laplacian, const at::Tensor& v) {
  at::Tensor b = at::zeros({v.size(0)}, v.options()), rest = v.clone(), direction = v.clone();
  at::Tensor squares = rest.dot(rest);
  // As many steps as unknowns solve it, but for their rounding.
  for (int64_t i = 0; i < std::min(kIterations, v.size(0) + 2); ++i) {
    const at::Tensor image = at::matmul(laplacian, direction);
    const at::Tensor curvature = direction.dot(image);
    // Once solved, both are 0, or noise.
    const at::Tensor goes_on = (squares > 1e-26).logical_and_(curvature > 0);
    const at::Tensor step = at::where(goes_on, squares / curvature, 0.0);
    b = b + step * direction;
    rest = rest - step * image;
    const at::Tensor left = rest.dot(rest);
    direction = rest + at::where(goes_on, left / squares, 0.0) * direction;
    squares = left;
  }
  return b;
}

}  // namespace

at::Tensor count_beyond_expert_scale(const SlotRatios& ratios, const at::Tensor& tolerance) {
  const int64_t num_tokens = ratios.logarithms.size(0), num_experts = ratios.num_experts;
  const auto options = ratios.logarithms.options();
  const at::Tensor slots = ratios.valid.sum(1, true);
  const at::Tensor valid = ratios.valid.logical_and(slots > 1);  // one slot tells nothing
  const at::Tensor used = valid.to(at::kDouble);
  const at::Tensor inverse = used.sum(1, true).clamp_min(1).reciprocal();
  const auto centred = [&](const at::Tensor& values) {
    const at::Tensor present = at::where(valid, values, 0.0);
    return at::where(valid, present - present.sum(1, true) * inverse, 0.0);
  };
  const at::Tensor member = at::zeros({num_tokens, num_experts}, options).scatter_add_(1, ratios.experts, used);
  const at::Tensor tokens_of_expert = member.sum(0);
  const at::Tensor laplacian = tokens_of_expert.diag() - at::matmul(member.t(), member * inverse);
  const at::Tensor v =
      at::zeros({num_experts}, options).scatter_add_(0, ratios.experts.flatten(), centred(ratios.logarithms).flatten());
  const at::Tensor b = conjugate_gradients(laplacian, v);
  const at::Tensor of_slots = b.index_select(0, ratios.experts.flatten()).view_as(ratios.experts);
  const at::Tensor misfit = (centred(ratios.logarithms - of_slots).abs() > 2 * tolerance).any(1).sum();
  const at::Tensor freedom = used.sum() - valid.any(1).sum() - (tokens_of_expert > 0).sum() + 1;
  return at::where(freedom >= kMinFreedom, misfit, 0);
}

}  // namespace moetap::analysis
