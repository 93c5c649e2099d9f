#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace moetap::analysis {

/// Ratios of what a slot holds and what it should hold.
struct SlotRatios {
  at::Tensor logarithms;  // float64 [num_tokens, top_k]
  at::Tensor valid;       // bool [num_tokens, top_k]: the slot has a ratio
  at::Tensor experts;     // int64 [num_tokens, top_k], in [0, num_experts)
  int64_t num_experts = 0;
};

/// Tokens whose ratios are no product of one factor a token and one factor an expert, the same in all tokens: int64 [].
/// The factors are those that fit best (least squares of logarithms). If there are too few ratios to refute such
/// factors, none counts. `tolerance`: float64 [], relative. Does not wait for a device.
at::Tensor count_beyond_expert_scale(const SlotRatios& ratios, const at::Tensor& tolerance);

}  // namespace moetap::analysis
