#pragma once

#include <ATen/core/Tensor.h>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums.h"

namespace moetap::analysis {

/// What a call gives of single tokens besides its sums. Contiguous tensors on the call's device that are written to;
/// undefined: not asked for.
struct TokenOutputs {
  at::Tensor selected;    // int32 [num_tokens, top_k]: the call's, -1 where they are no expert
  at::Tensor weights;     // float32 [num_tokens, top_k]
  at::Tensor first_slot;  // int32 [num_tokens]: as `first_slot` of slot_ranking.h; of a masked token any
};

/// Counts the tokens' ways from the router before: see TransitionSums.
struct TransitionFrom {
  at::Tensor first_slot;  // int32 [num_tokens], of the router before; undefined: not asked for
  at::Tensor counts;      // int64 [num_experts of the router before, num_experts], contiguous; added to
};

/// As `observe_into` of router_sums.h, with what it gives besides. Where the device has kernels of moetap's (see
/// device_kernels.h) one launch on the current stream does it all.
void observe_into(RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
                  const TransitionFrom& transition = {});

}  // namespace moetap::analysis
