#include "analysis/routers/token_outputs.h"

#include <c10/util/Exception.h>

#include "analysis/routers/observe_paths.h"

namespace moetap::analysis {
namespace {

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
  check_output("margins", outputs.margins, {num_tokens}, at::kFloat, device);
  if (!transition.first_slot.defined()) return;
  check_output("first_slot of the router before", transition.first_slot, {num_tokens}, at::kInt, device);
  TORCH_CHECK(transition.counts.defined() && transition.counts.dim() == 2, "token outputs: transitions need counts");
  check_output("counts of transitions", transition.counts, {transition.counts.size(0), call.num_experts}, at::kLong,
               device);
}

}  // namespace moetap::analysis
