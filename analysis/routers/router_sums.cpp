#include "analysis/routers/router_sums.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "analysis/devices/device_kernels.h"
#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_kernel_arguments.h"
#include "analysis/routers/router_kernels.h"
#include "analysis/routers/token_outputs.h"

namespace moetap::analysis {
namespace {

void check_plane(const char* name, const at::Tensor& tensor, int64_t num_tokens, int64_t columns, const char* shape,
                 at::Device device) {
  if (!tensor.defined()) return;
  TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == num_tokens && tensor.size(1) == columns, "router call: ", name,
              " must be ", shape, " = [", num_tokens, ", ", columns, "], got ", tensor.sizes());
  TORCH_CHECK(at::isFloatingType(tensor.scalar_type()), "router call: ", name, " must be floating point, got ",
              tensor.scalar_type());
  TORCH_CHECK(tensor.device() == device, "router call: ", name, " must be on the device of selected, ", device,
              ", got ", tensor.device());
}

}  // namespace

void check_call(const RouterCall& call) {
  TORCH_CHECK(call.selected.defined() && call.selected.dim() == 2,
              "router call: selected must be [num_tokens, top_k], got ",
              call.selected.defined() ? call.selected.sizes() : at::IntArrayRef{});
  TORCH_CHECK(call.selected.scalar_type() == at::kLong, "router call: selected must be int64, got ",
              call.selected.scalar_type());
  TORCH_CHECK(call.num_experts > 0, "router call: num_experts must be positive, got ", call.num_experts);
  const int64_t num_tokens = call.selected.size(0);
  const at::Device device = call.selected.device();
  TORCH_CHECK(num_tokens <= kMaxTermsPerCall, "router call: at most ", kMaxTermsPerCall, " tokens, got ", num_tokens);
  // The sums of weights have K terms a token.
  TORCH_CHECK(num_tokens * call.selected.size(1) <= kMaxTermsPerCall, "router call: at most ", kMaxTermsPerCall,
              " selections, got ", call.selected.sizes());
  check_plane("logits", call.logits, num_tokens, call.num_experts, "[num_tokens, num_experts]", device);
  check_plane("probabilities", call.probabilities, num_tokens, call.num_experts, "[num_tokens, num_experts]", device);
  check_plane("scores", call.scores, num_tokens, call.num_experts, "[num_tokens, num_experts]", device);
  check_plane("weights", call.weights, num_tokens, call.selected.size(1), "[num_tokens, top_k]", device);
}

void check_rows(const TokenRows& rows, int64_t num_tokens, at::Device device) {
  TORCH_CHECK(rows.num_rows > 0, "token rows: num_rows must be positive, got ", rows.num_rows);
  if (!rows.row.defined()) {
    if (rows.valid.defined()) {
      TORCH_CHECK(rows.valid.dim() == 1 && rows.valid.size(0) == num_tokens,
                  "token rows: valid must be [num_tokens] = [", num_tokens, "], got ", rows.valid.sizes());
      TORCH_CHECK(rows.valid.scalar_type() == at::kBool, "token rows: valid must be bool, got ",
                  rows.valid.scalar_type());
      TORCH_CHECK(rows.valid.device() == device, "token rows: valid must be on the device of the call, ", device,
                  ", got ", rows.valid.device());
    }
    TORCH_CHECK(num_tokens % rows.num_rows == 0, "token rows: without row, the ", num_tokens,
                " tokens must divide evenly over num_rows = ", rows.num_rows);
    return;
  }
  TORCH_CHECK(!rows.valid.defined(), "token rows: valid must be undefined where row says which tokens are masked");
  TORCH_CHECK(rows.row.dim() == 1 && rows.row.size(0) == num_tokens, "token rows: row must be [num_tokens] = [",
              num_tokens, "], got ", rows.row.sizes());
  TORCH_CHECK(rows.row.scalar_type() == at::kLong, "token rows: row must be int64, got ", rows.row.scalar_type());
  TORCH_CHECK(rows.row.device() == device, "token rows: row must be on the device of the call, ", device, ", got ",
              rows.row.device());
}

at::Tensor row_of_tokens(const TokenRows& rows, int64_t num_tokens, at::Device device) {
  if (rows.row.defined()) return rows.row;
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  at::Tensor row;
  if (num_tokens == 0 || rows.num_rows == 1) {
    row = at::zeros({num_tokens}, options);
  } else if (rows.order == RowOrder::kInterleaved) {
    row = at::arange(num_tokens, options).remainder_(rows.num_rows);
  } else {
    row = at::arange(num_tokens, options).floor_divide_(num_tokens / rows.num_rows);
  }
  return rows.valid.defined() ? row.masked_fill_(rows.valid.logical_not(), kMaskedRow) : row;
}

RouterSums empty_router_sums(int64_t num_experts, int64_t top_k, int64_t num_rows, at::Device device) {
  TORCH_CHECK(num_experts > 0 && top_k >= 0 && num_rows > 0,
              "router sums: num_experts and num_rows must be positive and top_k not negative, got ", num_experts, ", ",
              num_rows, " and ", top_k);
  RouterSums sums{num_experts, top_k, num_rows, /*has_pairs=*/false, /*words=*/{}, /*pending_terms=*/0};
  sums.has_pairs = sums.layout().pair_words() > 0;
  sums.words = at::zeros({sums.layout().words()}, at::TensorOptions().dtype(at::kLong).device(device));
  return sums;
}

RouterSums observe(const RouterCall& call, const TokenRows& rows) {
  check_call(call);
  RouterSums sums = empty_router_sums(call.num_experts, call.selected.size(1), rows.num_rows, call.selected.device());
  observe_into(sums, call, rows);
  return sums;
}

void observe_into(RouterSums& sums, const RouterCall& call, const TokenRows& rows) {
  observe_into(sums, call, rows, TokenOutputs{});
}

void observe_into(RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
                  const TransitionFrom& transition) {
  check_call(call);
  check_rows(rows, call.selected.size(0), call.selected.device());
  check_outputs(call, outputs, transition);
  TORCH_CHECK(sums.defined() && sums.num_experts == call.num_experts && sums.top_k == call.selected.size(1) &&
                  sums.num_rows == rows.num_rows,
              "observe: sums of ", sums.num_experts, " experts, top-", sums.top_k, ", ", sums.num_rows,
              " rows do not fit a call of ", call.num_experts, " experts, top-", call.selected.size(1), ", ",
              rows.num_rows, " rows");
  TORCH_CHECK(sums.has_pairs == (sums.layout().pair_words() > 0), "observe: the sums lack their table of pairs");
  TORCH_CHECK(sums.words.device() == call.selected.device(), "observe: sums must be on the device of the call, ",
              call.selected.device(), ", got ", sums.words.device());
  const int64_t terms = std::max(call.selected.size(0), call.selected.numel());
  TORCH_CHECK(sums.pending_terms + terms <= kMaxTermsPerCall, "observe: at most ", kMaxTermsPerCall,
              " terms fit into sums on a device, they hold ", sums.pending_terms, " and the call adds ", terms,
              "; copy them to the host and reset them");
  const DeviceKernels* kernels = device_kernels(call.selected.device().type());
  if (call.selected.is_cpu()) {
    observe_on_cpu(sums, call, rows, outputs, transition);
  } else if (kernels != nullptr && kernel_takes(call) && kernels->routers().runs_on(call.selected.device())) {
    kernels->routers().observe(sums, call, rows, outputs, transition);
    sums.pending_terms += terms;
  } else {
    observe_with_operations(sums, call, rows, outputs, transition);
    sums.pending_terms += terms;
  }
}

}  // namespace moetap::analysis
