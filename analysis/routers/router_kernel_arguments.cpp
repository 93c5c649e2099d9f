#include "analysis/routers/router_kernel_arguments.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <optional>

#include "analysis/numbers/fixed_point.h"
#include "analysis/routers/router_kernel_memory.h"

namespace moetap::analysis {
namespace {

std::optional<RealType> real_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return RealType::kFloat;
    case at::kHalf:
      return RealType::kHalf;
    case at::kBFloat16:
      return RealType::kBFloat16;
    case at::kDouble:
      return RealType::kDouble;
    default:
      return std::nullopt;
  }
}

bool is_readable(const at::Tensor& tensor) {
  return !tensor.defined() || real_type(tensor).has_value();
}

RealMatrix real_matrix(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), *real_type(tensor)};
}

template <typename Element>
Element* address(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<Element>() : nullptr;
}

int32_t experts_of_lane(int64_t num_experts) {
  int32_t experts = 1;
  while (experts * 32 < num_experts) experts *= 2;
  return experts;
}

}  // namespace

bool kernel_takes(const RouterCall& call) {
  return call.num_experts <= kMaxKernelExperts && call.selected.size(1) <= kMaxKernelSlots &&
         is_readable(call.logits) && is_readable(call.probabilities) && is_readable(call.scores) &&
         is_readable(call.weights);
}

RouterKernelLaunch router_kernel_launch(const RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                                        const TokenOutputs& outputs, const TransitionFrom& transition,
                                        int64_t num_processors) {
  RouterKernelLaunch launch;
  RouterKernelArguments& arguments = launch.arguments;
  const int64_t num_tokens = call.selected.size(0);
  arguments.logits = real_matrix(call.logits);
  arguments.probabilities = real_matrix(call.probabilities);
  arguments.scores = call.sigmoid_scores ? real_matrix(call.scores) : RealMatrix{};
  arguments.weights = real_matrix(call.weights);
  arguments.scores_are_logits = call.sigmoid_scores && !call.scores.defined() && call.logits.defined();
  arguments.selected = call.selected.const_data_ptr<int64_t>();
  arguments.selected_token_stride = call.selected.stride(0);
  arguments.selected_slot_stride = call.selected.stride(1);
  if (rows.row.defined()) {
    arguments.row = rows.row.const_data_ptr<int64_t>();
    arguments.row_stride = rows.row.stride(0);
  } else if (rows.valid.defined()) {
    arguments.valid = rows.valid.const_data_ptr<bool>();
    arguments.valid_stride = rows.valid.stride(0);
  }
  arguments.interleaved = rows.order == RowOrder::kInterleaved;
  arguments.num_tokens = num_tokens;
  arguments.num_rows = rows.num_rows;
  arguments.num_experts = static_cast<int32_t>(call.num_experts);
  arguments.top_k = static_cast<int32_t>(call.selected.size(1));
  arguments.words = address<int64_t>(sums.words);
  arguments.has_pairs = sums.has_pairs;
  arguments.selected_out = address<int32_t>(outputs.selected);
  arguments.weights_out = call.weights.defined() ? address<float>(outputs.weights) : nullptr;
  arguments.first_slot_out = address<int32_t>(outputs.first_slot);
  arguments.margins_out = call.has_margins() ? address<float>(outputs.margins) : nullptr;
  if (transition.first_slot.defined()) {
    arguments.first_slot_before = transition.first_slot.const_data_ptr<int32_t>();
    arguments.transitions = address<int64_t>(transition.counts);
    arguments.num_experts_before = static_cast<int32_t>(transition.counts.size(0));
  }
  if (num_tokens == 0) return launch;

  // Few tokens: a warp for each, spread over all multiprocessors. Many tokens: as many warps as run at once, so that
  // each adds up many tokens in registers before it adds to memory.
  constexpr int64_t kWarpsOfProcessor = 16;
  const int64_t max_warps_of_block = call.num_experts <= 256 ? 8 : call.num_experts <= 512 ? 4 : 2;
  const int64_t num_warps = std::min(num_tokens, num_processors * kWarpsOfProcessor);
  // A block of 8 warps adds probabilities up in one word.
  arguments.tokens_of_warp = std::min((num_tokens + num_warps - 1) / num_warps, kMaxTokensInBlock / 8);
  const int64_t warps_of_block = std::clamp<int64_t>(num_tokens / num_processors, 1, max_warps_of_block);
  const int64_t tokens_of_block = arguments.tokens_of_warp * warps_of_block;
  launch.num_blocks = (num_tokens + tokens_of_block - 1) / tokens_of_block;
  launch.threads_of_block = static_cast<int32_t>(32 * warps_of_block);
  launch.shared_bytes =
      BlockMemoryLayout{arguments.num_experts, static_cast<int32_t>(warps_of_block), arguments.has_pairs}.bytes();
  launch.experts_of_lane = experts_of_lane(call.num_experts);
  return launch;
}

}  // namespace moetap::analysis
