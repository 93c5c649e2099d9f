#include "analysis/routers/token_outputs.h"

#include <ATen/ATen.h>

#include "analysis/routers/observe_paths.h"
#include "analysis/routers/slot_ranking.h"
#include "analysis/routers/transition_sums.h"

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

void check_output(const char* name, const at::Tensor& tensor, at::IntArrayRef sizes, at::ScalarType dtype,
                  at::Device device) {
  if (!tensor.defined()) return;
  TORCH_CHECK(
      tensor.sizes() == sizes && tensor.scalar_type() == dtype && tensor.device() == device && tensor.is_contiguous(),
      "token outputs: ", name, " must be contiguous ", dtype, " ", sizes, " on ", device, ", got ",
      tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device());
}

}  // namespace

void check_outputs(const RouterCall& call, const TokenOutputs& outputs, const TransitionFrom& transition) {
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  const at::Device device = call.selected.device();
  check_output("selected", outputs.selected, {num_tokens, top_k}, at::kInt, device);
  check_output("weights", outputs.weights, {num_tokens, top_k}, at::kFloat, device);
  check_output("first_slot", outputs.first_slot, {num_tokens}, at::kInt, device);
  if (!transition.first_slot.defined()) return;
  check_output("first_slot of the router before", transition.first_slot, {num_tokens}, at::kInt, device);
  TORCH_CHECK(transition.counts.defined() && transition.counts.dim() == 2, "token outputs: transitions need counts");
  check_output("counts of transitions", transition.counts, {transition.counts.size(0), call.num_experts}, at::kLong,
               device);
}

void write_tokens(const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
                  const TransitionFrom& transition) {
  if (outputs.selected.defined()) copy_selected(call.selected, call.num_experts, outputs.selected);
  if (outputs.weights.defined() && call.weights.defined()) outputs.weights.copy_(call.weights);
  if (!outputs.first_slot.defined() && !transition.first_slot.defined()) return;
  const at::Tensor first = first_slot(call);
  if (outputs.first_slot.defined()) outputs.first_slot.copy_(first);
  if (!transition.first_slot.defined()) return;
  transition.counts.add_(
      observe_transition(transition.first_slot.to(at::kLong), first, rows, transition.counts.size(0), call.num_experts)
          .counts);
}

}  // namespace moetap::analysis
