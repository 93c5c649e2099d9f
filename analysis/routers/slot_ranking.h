#pragma once

#include <ATen/core/Tensor.h>

#include "analysis/routers/router_call.h"

namespace moetap::analysis {

// Note [Slots are ranked by gate weight]
// The first column of a top-k is not the largest weight in every model, so slots are ranked by weight, ties to the
// lower expert id. NaN ranks as -inf. A slot whose id is no expert (-1, or out of range) has no rank, and weight 0 for
// the margin. Without weights the order is the model's.

/// Expert of each token's first slot: int64 [num_tokens] on the call's device; -1: the token has no slot. Elsewhere
/// than on the CPU by LibTorch operations on the current stream; does not block a device.
at::Tensor first_slot(const RouterCall& call);

/// w[0] - w[1] of each token: float64 [num_tokens] on the call's device; undefined when K < 2 or the call has no
/// weights. Not finite where one of the two is not. Computed where and as `first_slot` is.
at::Tensor weight_margin(const RouterCall& call);

/// The same, rounded to float32: LibMoE's `router_magine`.
at::Tensor token_margin(const RouterCall& call);

}  // namespace moetap::analysis
