#pragma once

#include "hooks/graph/method_graph.h"
#include "hooks/routers/found_router.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// Takes the logits that the router's only pick reads where these are not those that its weights are made of: see
/// Note [Logits of a limited selection].
void take_logits_of_selection(const MethodGraph& graph, const RouterFlow& flow, const Pick& pick, FoundRouter& router);

/// Of a pick from scores that were reduced to one number an expert (the best of several keys, a norm): takes what it
/// reads, or the scoring function before it.
void take_reduced_logits(const Pick& pick, FoundRouter& router);

}  // namespace moetap::hooks
