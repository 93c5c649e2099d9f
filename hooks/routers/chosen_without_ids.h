#pragma once

#include <optional>

#include "hooks/routers/found_router.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

// Routers that have no ids of experts, one for each slot of a token.

/// True for expert choice: scores laid out as [.., experts, tokens], from which each expert picks tokens, with weights
/// for its outputs.
bool chooses_tokens_for_experts(const RouterFlow& flow);

/// Empty where the weights were changed after they were spread over the tokens: no tensor [experts, places] holds them.
std::optional<FoundRouter> expert_choice(const MethodGraph& graph, const RouterFlow& flow);

/// Experts that take the best of the tokens that chose them: `weights` are those of the tokens that they take, `router`
/// is what is known so far.
FoundRouter chosen_among_the_assigned(const RouterFlow& flow, const Fact& weights, FoundRouter router);

/// Experts whose scores are as large as one of them: no ids, but weights that are zero at all others. Empty: the flow
/// is something else.
std::optional<FoundRouter> chosen_by_threshold(const MethodGraph& graph, const RouterFlow& flow);

}  // namespace moetap::hooks
