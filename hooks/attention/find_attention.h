#pragma once

#include <string>
#include <vector>

#include "hooks/attention/found_attention.h"
#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"
#include "hooks/points/hook_point.h"
#include "hooks/points/skip_reason.h"

namespace moetap::hooks {

/// The attention of a method graph, in order of execution: a softmax over keys of a product of two activations whose
/// result multiplies a third, or an operator that does all three. `owner` is empty where the graph has lost its paths;
/// it must have kept its calls (CallsOfModules::kKept). Adds to `skipped` what looks like attention and is none, or
/// cannot be reported, in order of execution.
std::vector<FoundAttention> find_attention(const MethodGraph& graph, const ValueOrigins& origins,
                                           std::vector<SkippedNode>& skipped);

/// The hook of an attention in a method; `id` is left to the caller, and what is still empty then to name_hooks.
HookPoint hook_point(const FoundAttention& attention, const std::string& method);

}  // namespace moetap::hooks
