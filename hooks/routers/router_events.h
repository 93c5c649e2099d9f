#pragma once

#include <vector>

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// True for the use of ids that tells of experts, wherever weights are.
bool is_strong(EventKind kind);

bool has(const RouterFlow& flow, EventKind kind);

/// Where weights met what may be a factor or a hidden state; null if they did not.
const torch::jit::Node* unsure_application(const RouterFlow& flow);

/// The node of the last event of a kind; null if there is none.
const torch::jit::Node* last_node(const RouterFlow& flow, EventKind kind);

/// Ids that choose experts. The latest for each pick: ids that were rewritten after the pick replace it.
std::vector<torch::jit::Value*> chosen_ids(const MethodGraph& graph, const RouterFlow& flow);

/// True if ids or weights that nobody has followed choose or weigh experts, or the numbers of slots of `selected` that
/// hold no expert do.
bool chooses_by_rewritten_ids(const RouterFlow& flow, const std::vector<torch::jit::Value*>& selected);

}  // namespace moetap::hooks
