#pragma once

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// True if outputs of single slots are put together in another order than that of the slots, and are then multiplied
/// by the weights of all of them; or if one of the outputs that were computed for all slots meets the weight of another
/// slot. See Note [Crossed slots].
bool crosses_joined_outputs(const MethodGraph& graph, const RouterFlow& flow);

}  // namespace moetap::hooks
