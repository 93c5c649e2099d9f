#pragma once

#include <regex>
#include <string>

#include "hooks/graph/method_graph.h"
#include "hooks/points/hook_spec.h"

namespace moetap::hooks {

/// What a value must be.
enum class ValueType {
  kTensor,
  kOptionalTensor,  // a tensor, or none
};

/// The value that a reference names inside the call `scope` of the graph. Throws HookSpecError if there is nothing by
/// that name, if there are several and none is chosen, or if it is not of the type: one line that begins with `where`
/// and shows what there is instead.
torch::jit::Value* resolve(const ValueReference& reference, const MethodGraph& graph, const ModuleCall& scope,
                           const std::string& where, ValueType type = ValueType::kTensor);

/// The regular expression of a spec. Throws HookSpecError that begins with `where`.
std::regex checked_regex(const std::string& pattern, const std::string& where);

}  // namespace moetap::hooks
