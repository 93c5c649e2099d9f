#pragma once

#include <string>
#include <vector>

#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"
#include "hooks/points/hook_point.h"
#include "hooks/points/skip_reason.h"
#include "hooks/routers/found_router.h"

namespace moetap::hooks {

/// The routers of a method graph, in order of execution. `owner` is empty where the graph has lost its paths. Adds to
/// `skipped` what looks like a router and is none, in order of execution.
std::vector<FoundRouter> find_routers(const MethodGraph& graph, const ValueOrigins& origins,
                                      std::vector<SkippedNode>& skipped);

/// The hook of a router in a method; `id` is left to the caller, and what is still empty then to name_hooks.
HookPoint hook_point(const FoundRouter& router, const std::string& method);

}  // namespace moetap::hooks
