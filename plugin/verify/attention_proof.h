#pragma once

#include <vector>

#include "hooks/probe.h"
#include "plugin/verify/hook_proof.h"
#include "plugin/verify/twin_attention.h"
#include "plugin/verify/twin_run.h"

namespace moetap::plugin {

// Note [Proof of attention]
// A capture of attention is right if its probabilities are those by which the model weighs its values. What the model
// makes of them, x, is the result of the first product with values behind what is reported; it is linear in them.
//
// rows     The row of one query and head is changed: its probabilities become 0, or its query others. x changes in as
//          many numbers as one row has, and another row's change reaches others. So dimensions are what the layout
//          says.
// share    A key of the row is masked out, and it alone is left: x' and x". With p, the key's share as it was captured,
//          the row's numbers in x must be p x" + (1 - p) x'. Where probabilities are reported, the row itself is
//          changed; where query and key are, the key is moved along the query, so that its score falls under or rises
//          over all others. There the relation holds only if scale, mask and all else that the probabilities are made
//          of are those of the model.
// context  What the product gets are the numbers that are reported; of an operator that does all of it, the output is
//          the product of the probabilities, made of what is reported, with the values that it got.
//
// Checks of the tokens: token_proof.h.

/// The checks of what a hook reports, by the forward of `method`, of the probed twin, over the arguments. `base` is
/// that forward without interventions, in which the hook ran.
std::vector<Check> prove_attention(const hooks::ProbedAttention& attention, const torch::jit::Method& method,
                                   const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base);

}  // namespace moetap::plugin
