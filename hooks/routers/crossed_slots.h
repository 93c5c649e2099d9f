#pragma once

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

// Note [Crossed slots]
// Slots that are taken apart are used one by one: `ids[:, 0]` chooses an expert, `weights[:, 0]` weighs its output. Ids
// and weights are reported side by side as they stand, so a model that weighs the expert of one slot with the weight of
// another would be reported wrong. Where a piece of the weights meets what another piece of the ids has chosen, by a
// mask of one expert, by rows or in a hidden state that the chosen expert gave, the router is refused. So it is where
// outputs of single slots are put together (in a list, or in the places of a tensor) in another order than that of the
// slots before the weights of all slots meet them, and where one of the outputs of all slots meets another slot's
// weight.

/// True if both are pieces of slots, and it cannot be said that they are the same slot.
bool are_of_other_slots(const Fact& weights, const Fact& ids);

/// True if weights of one slot multiply what the ids of other slots have chosen.
bool crosses_slots(const MethodGraph& graph, const RouterFlow& flow);

}  // namespace moetap::hooks
