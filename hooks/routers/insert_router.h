#pragma once

#include "hooks/graph/in_place_writes.h"
#include "hooks/points/forward_handle.h"
#include "hooks/points/hook_point.h"
#include "hooks/routers/found_router.h"
#include "hooks/routers/router_input.h"

namespace moetap::hooks {

/// Inserts the `moetap::router` of a router where its ids and weights are as the experts get them. Logits and scores
/// that this place does not see are left out. `writes` and `handle` are those of the router's method graph. Throws
/// std::invalid_argument if no place sees all ids and weights.
void insert_router(const FoundRouter& router, const HookPoint& hook, const InPlaceWrites& writes, ForwardHandle& handle,
                   RouterInputs inputs = RouterInputs::kLeftOut);

}  // namespace moetap::hooks
