#include "analysis/slot_ranking.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <limits>

#include "analysis/observe_paths.h"

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor holds_expert(const RouterCall& call) {
  return (call.selected >= 0).bitwise_and(call.selected < call.num_experts);
}

/// float64 [T, K]; -inf where a slot holds no expert or its weight is NaN.
at::Tensor slot_ranks(const RouterCall& call, const at::Tensor& holds) {
  const at::Tensor weights = call.weights.detach().to(at::kDouble);
  return at::where(holds.bitwise_and(weights == weights), weights, -kInfinity);
}

}  // namespace

at::Tensor first_slot(const RouterCall& call) {
  check_call(call);
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  if (num_tokens == 0 || top_k == 0) return at::full({num_tokens}, -1, call.selected.options());
  const at::Tensor holds = holds_expert(call);
  if (!call.weights.defined()) {
    const at::Tensor place = at::where(holds, at::arange(top_k, call.selected.options()), top_k).amin(1, true);
    const at::Tensor id = call.selected.gather(1, place.clamp_max(top_k - 1)).squeeze(1);
    return at::where(place.squeeze(1) < top_k, id, -1);
  }
  const at::Tensor ranks = slot_ranks(call, holds);
  const at::Tensor is_first = holds.bitwise_and(ranks == ranks.amax(1, true));
  const at::Tensor id = at::where(is_first, call.selected, call.num_experts).amin(1);
  return at::where(id < call.num_experts, id, -1);
}

at::Tensor weight_margin(const RouterCall& call) {
  check_call(call);
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  if (top_k < 2 || !call.weights.defined()) return at::Tensor();
  if (num_tokens == 0) return at::empty({0}, call.weights.options().dtype(at::kDouble));
  const at::Tensor holds = holds_expert(call);
  const at::Tensor best = std::get<0>(at::topk(slot_ranks(call, holds), 2, 1));
  const at::Tensor num_used = holds.sum(1);
  return at::where(num_used > 0, best.select(1, 0), 0.0) - at::where(num_used > 1, best.select(1, 1), 0.0);
}

at::Tensor token_margin(const RouterCall& call) {
  const at::Tensor margin = weight_margin(call);
  return margin.defined() ? margin.to(at::kFloat) : margin;
}

}  // namespace moetap::analysis
