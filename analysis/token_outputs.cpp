#include "analysis/token_outputs.h"

#include <ATen/ATen.h>

#include "analysis/slot_ranking.h"
#include "analysis/transition_sums.h"

namespace moetap::analysis {
namespace {

void copy_selected(const at::Tensor& selected, int64_t num_experts, const at::Tensor& to) {
  if (!selected.is_cpu()) {
    const at::Tensor outside = (selected < 0).logical_or_(selected >= num_experts);
    to.copy_(selected.masked_fill(outside, -1));
    return;
  }
  // A loop: LibTorch's operations cost more than the few numbers of a call on the CPU.
  const at::Tensor from = selected.contiguous();
  const int64_t* ids = from.const_data_ptr<int64_t>();
  int32_t* out = to.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < from.numel(); ++i) {
    out[i] = ids[i] >= 0 && ids[i] < num_experts ? static_cast<int32_t>(ids[i]) : -1;
  }
}

}  // namespace

void observe_into(RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
                  const TransitionFrom& transition) {
  observe_into(sums, call, rows);
  if (outputs.selected.defined()) copy_selected(call.selected, call.num_experts, outputs.selected);
  if (outputs.weights.defined()) outputs.weights.copy_(call.weights);
  if (!outputs.first_slot.defined() && !transition.first_slot.defined()) return;
  const at::Tensor first = first_slot(call);
  if (outputs.first_slot.defined()) outputs.first_slot.copy_(first);
  if (!transition.first_slot.defined()) return;
  transition.counts.add_(
      observe_transition(transition.first_slot.to(at::kLong), first, rows, transition.counts.size(0), call.num_experts)
          .counts);
}

}  // namespace moetap::analysis
