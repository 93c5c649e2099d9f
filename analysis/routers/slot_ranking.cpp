#include "analysis/routers/slot_ranking.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/routers/observe_paths.h"

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

/// What the slots of one token show.
struct RankedSlots {
  int64_t first = -1;  // its expert
  double margin = 0;
};

template <typename Weight>
RankedSlots rank_slots(const int64_t* ids, const Weight* weights, int64_t top_k, int64_t num_experts) {
  RankedSlots ranked;
  double largest = -kInfinity, second = -kInfinity;
  int64_t num_used = 0;
  for (int64_t slot = 0; slot < top_k; ++slot) {
    const int64_t id = ids[slot];
    if (id < 0 || id >= num_experts) continue;
    const auto weight = static_cast<double>(weights[slot]);
    const double rank = std::isnan(weight) ? -kInfinity : weight;
    if (num_used++ == 0 || rank > largest) {
      second = largest;
      largest = rank;
      ranked.first = id;
    } else {
      second = std::max(second, rank);
      if (rank == largest) ranked.first = std::min(ranked.first, id);
    }
  }
  if (num_used > 0) ranked.margin = largest - (num_used > 1 ? second : 0);
  return ranked;
}

/// Calls take(token, RankedSlots) for each token of a call on the CPU with weights.
template <typename Take>
void for_each_ranked(const RouterCall& call, const Take& take) {
  const at::Tensor selected = call.selected.contiguous();
  const bool is_double = call.weights.scalar_type() == at::kDouble;
  // Half precision is widened, which is exact.
  const at::Tensor weights = call.weights.detach().to(is_double ? at::kDouble : at::kFloat).contiguous();
  const int64_t top_k = selected.size(1);
  const int64_t* ids = selected.const_data_ptr<int64_t>();
  const auto rank_all = [&](const auto* values) {
    for (int64_t token = 0; token < selected.size(0); ++token) {
      take(token, rank_slots(ids + token * top_k, values + token * top_k, top_k, call.num_experts));
    }
  };
  if (is_double) {
    rank_all(weights.const_data_ptr<double>());
  } else {
    rank_all(weights.const_data_ptr<float>());
  }
}

}  // namespace

at::Tensor first_slot(const RouterCall& call) {
  if (!call.selected.is_cpu() || !call.weights.defined()) return first_slot_with_operations(call);
  check_call(call);
  const at::Tensor first = at::empty({call.selected.size(0)}, call.selected.options());
  int64_t* ids = first.mutable_data_ptr<int64_t>();
  for_each_ranked(call, [&](int64_t token, const RankedSlots& ranked) { ids[token] = ranked.first; });
  return first;
}

at::Tensor weight_margin(const RouterCall& call) {
  if (!call.selected.is_cpu() || !call.weights.defined()) return weight_margin_with_operations(call);
  check_call(call);
  if (call.selected.size(1) < 2) return at::Tensor();
  const at::Tensor margin = at::empty({call.selected.size(0)}, call.weights.options().dtype(at::kDouble));
  double* margins = margin.mutable_data_ptr<double>();
  for_each_ranked(call, [&](int64_t token, const RankedSlots& ranked) { margins[token] = ranked.margin; });
  return margin;
}

at::Tensor first_slot_with_operations(const RouterCall& call) {
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

at::Tensor weight_margin_with_operations(const RouterCall& call) {
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
