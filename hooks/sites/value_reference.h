#pragma once

#include <regex>
#include <string>

#include "hooks/graph/method_graph.h"
#include "hooks/points/hook_spec.h"

namespace moetap::hooks {

/// The tensor that a reference names inside a call of the graph. Throws HookSpecError with one line that begins with
/// `where` and shows what there is instead: nothing by that name, several of which none is chosen, no tensor.
torch::jit::Value* resolve(const ValueReference& reference, const MethodGraph& graph, const ModuleCall& scope,
                           const std::string& where);

/// The regular expression of a spec. Throws HookSpecError that begins with `where`.
std::regex checked_regex(const std::string& pattern, const std::string& where);

}  // namespace moetap::hooks
