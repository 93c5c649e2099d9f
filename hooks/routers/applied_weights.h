#pragma once

#include <vector>

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// The weights that multiply hidden states, where experts are chosen by `selected`: one value, or one for each slot, or
/// for each arm of a branch.
std::vector<torch::jit::Value*> applied_weights(const MethodGraph& graph, const RouterFlow& flow,
                                                const std::vector<torch::jit::Value*>& selected);

/// True for values of which none can be seen where another is made: each belongs to an arm of a branch.
bool in_different_arms(const std::vector<torch::jit::Value*>& values);

/// True if other weights of the same slots, that neither `weights` were made of nor these of them, multiply what the
/// chosen experts give: one selection serves several layers.
bool weighs_in_several_ways(const MethodGraph& graph, const RouterFlow& flow,
                            const std::vector<torch::jit::Value*>& selected,
                            const std::vector<torch::jit::Value*>& weights);

/// True if one number a token, which no followed weights have given, multiplies what the chosen experts give.
bool is_weighed_by_others(const MethodGraph& graph, const RouterFlow& flow);

/// True if weights are applied that were changed after they were put into another order.
bool has_changed_weights(const RouterFlow& flow);

/// What was applied, where that are the same weights in one order everywhere, from which they can be put back: see
/// Note [Weights in another order]. Null where it is not.
const Fact* only_permuted_weights(const RouterFlow& flow);

}  // namespace moetap::hooks
