#pragma once

#include <ATen/core/Tensor.h>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums.h"

namespace moetap::analysis {

/// What a call gives for single tokens, besides its sums. Contiguous tensors on the call's device that are written to;
/// undefined: not asked for. What a masked token gets is not defined. Slots are ranked by gate weight: see
/// slot_ranking.h.
struct TokenOutputs {
  at::Tensor selected;      // int32 [num_tokens, top_k]: the call's ids, -1 where they are no expert
  at::Tensor weights;       // float32 [num_tokens, top_k]; not written if the call has no weights
  at::Tensor first_slot;    // int32 [num_tokens]: the expert of the first slot; -1: the token has no slot
  at::Tensor margins = {};  // float32 [num_tokens]: w[0] - w[1] of the float32 weights, 0 for a slot that does not hold
                            // an expert (LibMoE's `router_magine`); not written if K < 2 or the call has no weights
};

/// Counts transitions from the router before: see TransitionSums.
struct TransitionFrom {
  at::Tensor first_slot;  // int32 [num_tokens], of the router before; undefined: not asked for
  at::Tensor counts;      // int64 [num_experts of the router before, num_experts], contiguous; added to
};

/// `observe_into` of router_sums.h that also writes `outputs` and counts transitions. Slots are ranked once. Where
/// moetap has kernels for the device (see device_kernels.h), one launch on the current stream does all of it.
void observe_into(RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
                  const TransitionFrom& transition = {});

}  // namespace moetap::analysis
