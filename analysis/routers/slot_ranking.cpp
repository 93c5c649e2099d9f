#include "analysis/routers/slot_ranking.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "analysis/routers/observe_paths.h"

namespace moetap::analysis {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The model's first slot that holds an expert. holds: bool [T, K]
at::Tensor first_of_model(const RouterCall& call, const at::Tensor& holds) {
  const int64_t top_k = call.selected.size(1);
  const at::Tensor place = at::where(holds, at::arange(top_k, call.selected.options()), top_k).amin(1, true);
  const at::Tensor id = call.selected.gather(1, place.clamp_max(top_k - 1)).squeeze(1);
  return at::where(place.squeeze(1) < top_k, id, -1);
}

at::Tensor difference(const at::Tensor& pairs) {
  return pairs.select(1, 0) - pairs.select(1, 1);
}

}  // namespace

at::Tensor RankedSlots::margin() const {
  return largest.defined() ? difference(largest) : largest;
}

at::Tensor RankedSlots::recorded_margin() const {
  return largest.defined() ? difference(largest.to(at::kFloat)) : largest;
}

RankedSlots rank_slots(const RouterCall& call) {
  check_call(call);
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  const bool has_pairs = top_k > 1 && call.weights.defined();
  RankedSlots ranked;
  if (num_tokens == 0 || top_k == 0) {
    ranked.first_slot = at::full({num_tokens}, -1, call.selected.options());
    if (has_pairs) ranked.largest = at::zeros({num_tokens, 2}, call.weights.options().dtype(at::kDouble));
    return ranked;
  }
  const at::Tensor holds = (call.selected >= 0).bitwise_and(call.selected < call.num_experts);
  if (!call.weights.defined()) {
    ranked.first_slot = first_of_model(call, holds);
    return ranked;
  }
  const at::Tensor weights = call.weights.detach().to(at::kDouble);
  // -inf where a slot holds no expert or its weight is NaN.
  const at::Tensor ranks = at::where(holds.bitwise_and(weights == weights), weights, -kInfinity);
  const at::Tensor is_first = holds.bitwise_and(ranks == ranks.amax(1, true));
  const at::Tensor id = at::where(is_first, call.selected, call.num_experts).amin(1);
  ranked.first_slot = at::where(id < call.num_experts, id, -1);
  if (has_pairs) {
    const at::Tensor exists = at::arange(2, call.selected.options()) < holds.sum(1, true);
    ranked.largest = at::where(exists, std::get<0>(at::topk(ranks, 2, 1)), 0.0);
  }
  return ranked;
}

}  // namespace moetap::analysis
