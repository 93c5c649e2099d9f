#pragma once

#include <ATen/core/Tensor.h>

#include "analysis/routers/router_call.h"

namespace moetap::analysis {

// Note [Slots are ranked by gate weight]
// The first column of a top-k is not the largest weight in every model, so slots are ranked by weight, ties to the
// lower expert id. NaN ranks as -inf. A slot whose id is no expert (-1, or out of range) has no rank, and weight 0 for
// the margin. Without weights the order is the model's.

/// The first two slots of each token, on the call's device.
struct RankedSlots {
  at::Tensor first_slot;  // int64 [num_tokens]: the expert of the first slot; -1: the token has no slot
  // float64 [num_tokens, 2]: w[0] and w[1], which are -inf or inf where a weight is; undefined: K < 2 or no weights
  at::Tensor largest;

  /// w[0] - w[1], float64 [num_tokens]; not finite where one of the two is not. Undefined where `largest` is.
  at::Tensor margin() const;
  /// The same of the weights as they are recorded, in float32: see TokenOutputs::margins.
  at::Tensor recorded_margin() const;
};

/// Ranks the slots of a call with LibTorch operations on the current stream of its device; does not block. The other
/// paths of observe_paths.h rank slots on their own. Throws c10::Error if the call's tensors do not fit together.
RankedSlots rank_slots(const RouterCall& call);

}  // namespace moetap::analysis
