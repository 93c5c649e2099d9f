#include "hooks/routers/find_routers.h"

#include <algorithm>
#include <map>
#include <set>

#include "hooks/graph/known_shapes.h"
#include "hooks/graph/module_path.h"
#include "hooks/graph/op_traits.h"
#include "hooks/routers/applied_weights.h"
#include "hooks/routers/router_decision.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// Experts that a projection has scores for, from the shape of its weight.
std::optional<int64_t> projected_size(const MethodGraph& graph, const Projection& projection) {
  // Back through casts and transposes to the weight itself.
  const jit::Value* value = projection.parameter;
  bool transposed = false;
  while (!graph.constant(value).has_value()) {
    const jit::Node* node = value->node();
    if (node->inputs().empty()) return std::nullopt;
    const OpKind kind = op_kind(*node);
    if (kind == OpKind::kMoveAxis)
      transposed = transposed != !turns_elements(*node);
    else if (kind != OpKind::kCopy && kind != OpKind::kElementwise && kind != OpKind::kMultiply)
      return std::nullopt;
    value = node->input(0);
  }
  const auto constant = graph.constant(value);
  if (!constant->isTensor() || !constant->toTensor().defined() || constant->toTensor().dim() < 2) return std::nullopt;
  const at::Tensor weight = constant->toTensor();
  const std::string name = base_name(*projection.node);
  if (name == "einsum" || name == "tensordot" || name == "bilinear") return std::nullopt;
  const bool rows_are_experts = is_weight_first(projection) || name == "linear" || name == "cdist" || name == "inner" ||
                                name == "sum" || name.rfind("conv", 0) == 0 || name == "_convolution";
  if (rows_are_experts) return transposed ? weight.size(-1) : weight.size(0);
  return transposed ? weight.size(-2) : weight.size(-1);
}

std::string owner_path(const MethodGraph& graph, const jit::Value* parameter) {
  std::vector<const jit::Value*> stack = {parameter};
  std::set<const jit::Value*> seen;
  while (!stack.empty()) {
    const jit::Value* value = stack.back();
    stack.pop_back();
    if (!seen.insert(value).second) continue;
    auto path = graph.attribute_path(value);
    if (!path.empty()) {
      path.pop_back();
      return join_path(path);
    }
    const auto inputs = value->node()->inputs();
    for (auto input = inputs.rbegin(); input != inputs.rend(); ++input) stack.push_back(*input);
  }
  return "";
}

const jit::Value* first_of_copies(const jit::Value* value) {
  while (!value->node()->inputs().empty() &&
         (op_kind(*value->node()) == OpKind::kCopy || op_kind(*value->node()) == OpKind::kReshape)) {
    value = value->node()->input(0);
  }
  return value;
}

// The common beginning of the paths of the modules that own the parameters: "layers.0.moe.experts".
std::string common_owner_path(const MethodGraph& graph, const std::vector<const jit::Value*>& parameters) {
  std::vector<std::string> common;
  bool first = true;
  for (const jit::Value* parameter : parameters) {
    const auto path = path_elements(owner_path(graph, parameter));
    if (path.empty()) continue;
    if (first) common = path;
    first = false;
    size_t same = 0;
    while (same < common.size() && same < path.size() && common[same] == path[same]) ++same;
    common.resize(same);
  }
  return join_path(common);
}

// The dimension along which parts are put together; empty where the graph does not tell.
std::optional<int64_t> joined_along(const MethodGraph& graph, const jit::Node& node,
                                    const std::vector<jit::Value*>& parts, KnownShapes& shapes) {
  const std::string name = base_name(node);
  if (name == "hstack" || name == "column_stack") {  // rows of one number each, where they have two dimensions
    const bool of_rows = !parts.empty() && shapes.of(parts[0]).rank == 2;
    return of_rows ? std::optional<int64_t>(1) : std::nullopt;
  }
  return node.inputs().size() < 2 ? std::nullopt : graph.constant_int(node.input(1));
}

// One projection to a single number for each expert, side by side: `cat([gate(x) for gate in gates], -1)`. Fills
// `projection` with the place where they are joined, and the parameters of all.
bool match_joined_projections(jit::Node* node, const MethodGraph& graph, const ValueOrigins& origins,
                              KnownShapes& shapes, Projection& projection, std::vector<const jit::Value*>& parameters) {
  if (op_kind(*node) != OpKind::kConcatenate || grows_in_loop(node->input(0))) return false;
  const auto parts = list_elements(node->input(0));
  const auto dim = joined_along(graph, *node, parts, shapes);
  if (parts.size() < 2 || !dim || *dim == 0) return false;
  for (const jit::Value* part : parts) {
    Projection own;
    if (!match_projection(const_cast<jit::Node*>(first_of_copies(part)->node()), origins, own)) return false;
    if (projected_size(graph, own) != 1) return false;
    if (!parameters.empty() && first_of_copies(own.activation) != first_of_copies(projection.activation)) return false;
    parameters.push_back(own.parameter);
    projection = {node, own.parameter, own.activation};
  }
  return true;
}

// The common beginning of the paths of the experts that ids choose.
std::string users_path(const MethodGraph& graph, const FoundRouter& router, const ValueOrigins& origins) {
  std::vector<const jit::Value*> parameters;
  const int64_t from = graph.order(router.users.front()), to = graph.order(router.users.back());
  for (jit::Node* node : graph.nodes()) {
    Projection projection;
    if (graph.order(node) < from || graph.order(node) > to || !match_projection(node, origins, projection)) continue;
    parameters.push_back(projection.parameter);
  }
  return common_owner_path(graph, parameters);
}

/// Finds the routers of one method graph.
class RouterSearch {
 public:
  RouterSearch(const MethodGraph& graph, const ValueOrigins& origins)
      : graph_(graph), origins_(origins), shapes_(graph) {}

  void follow_projections() {
    for (jit::Node* node : graph_.nodes()) {
      Projection projection;
      std::vector<const jit::Value*> parameters;
      const bool joined = match_joined_projections(node, graph_, origins_, shapes_, projection, parameters);
      if (!joined && !match_projection(node, origins_, projection)) continue;
      const auto size =
          joined ? std::optional(static_cast<int64_t>(parameters.size())) : projected_size(graph_, projection);
      const RouterFlow flow(graph_, origins_, shapes_, projection, size);
      for (const Pick& pick : flow.picks()) followed_.insert(pick.node);
      if (size == 1) {  // one score a token: it can rank tokens, not experts
        if (!flow.picks().empty()) {
          considered_.push_back({flow.picks().back().node, node, SkipReason::kIndexesTokens});
        }
        continue;
      }
      RouterDecision decision = decide(graph_, flow);
      if (decision.router && decision.router->weights.empty() && flow.multiplies_chosen_vectors()) {
        const RouterFlow weighing(graph_, origins_, shapes_, projection, size, ChosenVectors::kWeights);
        RouterDecision weighed = decide(graph_, weighing);
        if (weighed.router && !weighed.router->weights.empty()) decision = std::move(weighed);
      }
      if (decision.router && decision.router->weights.empty() && is_weighed_by_others(graph_, flow)) {
        decision = {std::nullopt, SkippedNode{flow.picks().back().node, node, SkipReason::kWeighedByOthers}};
      }
      if (decision.skipped.has_value()) considered_.push_back(*decision.skipped);
      if (!decision.router.has_value()) continue;
      const auto& picks = decision.router->picks;
      if (std::any_of(picks.begin(), picks.end(), [&](const jit::Node* pick) { return claimed_.count(pick); }))
        continue;
      claimed_.insert(picks.begin(), picks.end());
      if (!joined) parameters = {projection.parameter};
      decision.router->owner = graph_.path_from_model(common_owner_path(graph_, parameters));
      routers_.push_back(std::move(*decision.router));
    }
  }

  // Ids of the method's arguments, where no projection's router selects by them.
  void follow_hash_ids() {
    for (jit::Node* node : graph_.nodes()) {
      HashIds hash;
      if (!match_hash_ids(node, graph_, origins_, hash)) continue;
      RouterDecision decision = decide_hash(graph_, RouterFlow(graph_, origins_, shapes_, hash), hash);
      if (decision.skipped.has_value()) considered_.push_back(*decision.skipped);
      if (!decision.router.has_value() || is_selected(decision.router->selected)) continue;
      decision.router->owner = graph_.path_from_model(users_path(graph_, *decision.router, origins_));
      routers_.push_back(std::move(*decision.router));
    }
  }

  std::vector<FoundRouter> routers() {
    std::sort(routers_.begin(), routers_.end(), [&](const FoundRouter& a, const FoundRouter& b) {
      return graph_.order(a.anchor()) < graph_.order(b.anchor());
    });
    return std::move(routers_);
  }

  // One for a node, and none for the pick of a router.
  std::vector<SkippedNode> skipped() const {
    std::map<int64_t, SkippedNode> by_order;
    for (const SkippedNode& node : considered_) {
      if (!claimed_.count(node.node)) by_order[graph_.order(node.node)] = node;
    }
    for (const jit::Node* node : graph_.nodes()) {
      if (node->kind() != jit::aten::topk || claimed_.count(node)) continue;
      by_order.try_emplace(
          graph_.order(node),
          SkippedNode{node, node, followed_.count(node) ? SkipReason::kSelectsNoExpert : SkipReason::kHasNoProjection});
    }
    std::vector<SkippedNode> nodes;
    for (const auto& [order, node] : by_order) nodes.push_back(node);
    return nodes;
  }

 private:
  bool is_selected(const std::vector<jit::Value*>& ids) const {
    std::set<const jit::Value*> selected;
    for (const FoundRouter& router : routers_) {
      for (const jit::Value* value : router.selected) selected.insert(first_of_copies(value));
    }
    return std::any_of(ids.begin(), ids.end(),
                       [&](const jit::Value* value) { return selected.count(first_of_copies(value)) > 0; });
  }

  const MethodGraph& graph_;
  const ValueOrigins& origins_;
  KnownShapes shapes_;
  std::vector<FoundRouter> routers_;
  std::set<const jit::Node*> claimed_;   // the picks of `routers_`
  std::set<const jit::Node*> followed_;  // the picks from scores of any projection
  std::vector<SkippedNode> considered_;
};

}  // namespace

std::vector<FoundRouter> find_routers(const MethodGraph& graph, const ValueOrigins& origins,
                                      std::vector<SkippedNode>& skipped) {
  RouterSearch search(graph, origins);
  search.follow_projections();
  search.follow_hash_ids();
  const auto nodes = search.skipped();
  skipped.insert(skipped.end(), nodes.begin(), nodes.end());
  return search.routers();
}

HookPoint hook_point(const FoundRouter& router, const std::string& method) {
  HookPoint hook = router.point(HookKind::kRouter, method);
  hook.num_experts = router.num_experts;
  hook.null_experts = router.null_experts;
  hook.top_k = router.top_k;
  hook.scoring = router.scoring;
  return hook;
}

}  // namespace moetap::hooks
