#pragma once

#include <vector>

#include "hooks/attention/found_attention.h"
#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"

namespace moetap::hooks {

/// The arms of one attention, and the call of the module that computes it; null where the graph has lost its calls.
struct CalledArms {
  std::vector<AttentionArm> arms;
  const ModuleCall* call = nullptr;
};

/// Puts together what one attention computes in several ways, in order of execution: arms of a branch that exclude each
/// other, and `_native_multi_head_attention` with the slow path that stands beside it.
std::vector<CalledArms> join_arms(std::vector<AttentionArm> arms, const MethodGraph& graph,
                                  const ValueOrigins& origins);

}  // namespace moetap::hooks
