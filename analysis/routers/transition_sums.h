#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums_values.h"

namespace moetap::analysis {

/// Counts transitions between two layers from the first slots of the same tokens: int64 [num_tokens] on one device. A
/// token that is masked or has no first slot in one of the layers is left out. On the CPU computed before the return;
/// elsewhere LibTorch operations on the current stream, no synchronisation. Throws c10::Error where shapes, dtypes or
/// devices do not fit.
TransitionSums observe_transition(const at::Tensor& first_slot_from, const at::Tensor& first_slot_to,
                                  const TokenRows& rows, int64_t num_experts_from, int64_t num_experts_to);

/// The same for first slots in plain memory, -1 for none, added to `into`, which may be default-constructed.
void add_transitions(TransitionSums& into, std::span<const int32_t> first_slot_from,
                     std::span<const int32_t> first_slot_to, int64_t num_experts_from, int64_t num_experts_to);

/// Adds `from` to `into` exactly. Both on the host; `into` may be default-constructed. Throws c10::Error if the numbers
/// of experts differ.
void merge(TransitionSums& into, const TransitionSums& from);

}  // namespace moetap::analysis
