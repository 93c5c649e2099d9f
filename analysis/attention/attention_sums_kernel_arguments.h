#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/attention/attention_sums.h"

namespace moetap::analysis {

/// The arguments of the kernels that add rows to sums; all addresses are of the device.
struct AttentionSumsArguments {
  // AttentionRows
  const uint8_t* line = nullptr;
  const float* values = nullptr;
  const float* bins = nullptr;
  const uint8_t* region = nullptr;
  const int32_t* position = nullptr;
  const int32_t* num_keys = nullptr;
  const int32_t* length = nullptr;
  const double* weight = nullptr;
  const int64_t* head_high = nullptr;
  const int64_t* head_low = nullptr;
  const int64_t* head_max_score = nullptr;
  int32_t num_sequences = 0, num_queries = 0;
  bool sampled = false;

  const int64_t* row = nullptr;  // [B]: as for `add_rows`
  AttentionSumsLayout layout;
  int64_t* words = nullptr;

  int32_t parts = 1;  // by rows: warps that share the lines of a sequence; by expert: blocks that share the slots

  // By expert
  const void* selected = nullptr;  // [B * Sq, K]
  bool selected_is_long = false;   // else int32
  AttentionTensor weights;         // [B * Sq, K], contiguous; null data: 1 a slot
  int32_t top_k = 0;
  int64_t num_slots = 0, slots_of_part = 0;
};

struct AttentionSumsLaunch {
  AttentionSumsArguments arguments;
  int64_t blocks = 0, shared_bytes = 0;
};
inline constexpr int32_t kThreadsOfSums = 128;  // of a block
inline constexpr int32_t kWarpsOfSums = kThreadsOfSums / 32;
/// Lines that a warp adds up before it adds to memory.
inline constexpr int32_t kLinesOfWarp = 64;

/// Words of shared memory of a warp that adds rows: the flow, high limbs first.
constexpr int64_t flow_words(const AttentionSumsLayout& layout) {
  return 2 * layout.num_regions * layout.num_regions;
}
// A warp that adds to an expert has all sums of the expert there.
static_assert(kWarpsOfSums * 8 * 2 * AttentionSumsLayout{1, kMaxAttentionRegions, 1, 1}.expert_sums() <= 48 << 10,
              "the shared memory that a block may have without a special launch attribute");

/// Why the kernels cannot take a call, in words; null: they can. `selected`, `weights`: undefined for `add_rows`.
const char* attention_sums_kernel_refusal(const AttentionRows& rows, const at::Tensor& row, const at::Tensor& selected,
                                          const at::Tensor& weights);

/// Arguments as for `add_rows` and `add_experts`, checked already, and not refused.
AttentionSumsLaunch row_sums_launch(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row);
AttentionSumsLaunch expert_sums_launch(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                                       const at::Tensor& selected, const at::Tensor& weights);

}  // namespace moetap::analysis
