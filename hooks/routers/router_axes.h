#pragma once

#include "hooks/graph/method_graph.h"
#include "hooks/routers/router_fact.h"

namespace moetap::hooks {

/// A dimension counted from the end where the rank is known.
int64_t from_end(int64_t dim, std::optional<int64_t> rank);

/// Updates where the experts lie after `transpose`, `permute` and the like.
void move_axis(const MethodGraph& graph, const torch::jit::Node& node, Fact& fact);

/// True if the tokens keep their order when `transpose`, `permute` and the like are applied: only the experts' axis
/// moves.
bool keeps_token_order(const MethodGraph& graph, const torch::jit::Node& node, const Fact& fact);

/// The same for weights spread over the places of experts: the first axis may be that of the slots, and move, too.
bool keeps_order_beside_slots(const MethodGraph& graph, const torch::jit::Node& node, const Fact& fact);

/// Updates rank and place of the experts after a view that names all sizes.
void resize_rank(Fact& fact, int64_t rank);

/// True for a slice that leaves nothing out.
bool is_full_range(const MethodGraph& graph, const torch::jit::Node& node);

}  // namespace moetap::hooks
