#pragma once

#include <cstdint>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"

namespace moetap::analysis {

enum class RealType : int32_t { kFloat, kHalf, kBFloat16, kDouble };

/// Floating point [num_tokens, columns] on the device; null data: the call does not have it.
struct RealMatrix {
  const void* data = nullptr;
  int64_t token_stride = 0;  // elements
  int64_t column_stride = 0;
  RealType type = RealType::kFloat;
};

/// The arguments of the router kernel; all addresses are of the device.
struct RouterKernelArguments {
  RealMatrix logits, probabilities, scores, weights;
  bool scores_are_logits = false;  // the router's scores are the sigmoid of the logits
  const int64_t* selected = nullptr;
  int64_t selected_token_stride = 0;
  int64_t selected_slot_stride = 0;
  const int64_t* row = nullptr;  // null: the tokens divide evenly over the rows
  int64_t row_stride = 0;
  const bool* valid = nullptr;  // null: all tokens are valid, or `row` masks them
  int64_t valid_stride = 0;
  bool interleaved = false;  // RowOrder::kInterleaved
  int64_t num_tokens = 0;
  int64_t num_rows = 1;
  int32_t num_experts = 0;
  int32_t top_k = 0;

  int64_t* words = nullptr;  // RouterSumsLayout
  bool has_pairs = false;
  int32_t* selected_out = nullptr;    // [num_tokens, top_k]; null: not asked for, as those below
  float* weights_out = nullptr;       // [num_tokens, top_k]
  int32_t* first_slot_out = nullptr;  // [num_tokens]
  float* margins_out = nullptr;       // [num_tokens]
  const int32_t* first_slot_before = nullptr;
  int64_t* transitions = nullptr;  // [num_experts_before, num_experts]
  int32_t num_experts_before = 0;

  int64_t tokens_of_warp = 1;  // neighbours in the order in which tokens are visited
};

/// The most that the kernel takes: a lane holds 32 experts, and one slot.
inline constexpr int64_t kMaxKernelExperts = 1024;
inline constexpr int64_t kMaxKernelSlots = 32;

/// True if the kernel can take a call; else LibTorch's operations do.
bool kernel_takes(const RouterCall& call);

/// How a call is launched.
struct RouterKernelLaunch {
  RouterKernelArguments arguments;
  int64_t num_blocks = 0;  // 0: nothing to do
  int32_t threads_of_block = 0;
  int64_t shared_bytes = 0;
  int32_t experts_of_lane = 1;  // 1, 2, 4, ..., 32: which instantiation
};

/// Arguments are checked already. `num_processors`: multiprocessors of the device.
RouterKernelLaunch router_kernel_launch(const RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                                        const TokenOutputs& outputs, const TransitionFrom& transition,
                                        int64_t num_processors);

}  // namespace moetap::analysis
