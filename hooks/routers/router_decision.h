#pragma once

#include <optional>

#include "hooks/points/skip_reason.h"
#include "hooks/routers/found_router.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// What the events of a flow say. Neither member is set where nothing looks like a router.
struct RouterDecision {
  std::optional<FoundRouter> router;  // without `owner`
  std::optional<SkippedNode> skipped;
};

/// Decides whether the projection that `flow` follows is a router.
RouterDecision decide(const MethodGraph& graph, const RouterFlow& flow);

/// The same for ids that come from the method's arguments: a router if they are compared with expert numbers, or choose
/// parameters that a hidden state is multiplied by.
RouterDecision decide_hash(const MethodGraph& graph, const RouterFlow& flow, const HashIds& hash);

}  // namespace moetap::hooks
