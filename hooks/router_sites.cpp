#include "hooks/router_sites.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "hooks/hook_names.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

void collect_own_calls(const jit::Block* block, const c10::TypePtr& self, std::set<std::string>& called) {
  for (const jit::Node* node : block->nodes()) {
    if (node->kind() == jit::prim::CallMethod && *node->input(0)->type() == *self)
      called.insert(node->s(jit::attr::name));
    for (const jit::Block* nested : node->blocks()) collect_own_calls(nested, self, called);
    if (auto subgraph = fork_subgraph(node)) collect_own_calls(subgraph->block(), self, called);
  }
}

// The methods that a host calls: those that the module's other methods call are inlined into them.
std::vector<std::string> entry_methods(const jit::Module& module, const std::vector<std::string>& wanted) {
  std::vector<std::string> names;
  std::set<std::string> called;
  for (const auto& method : module.get_methods()) {
    const auto* function = dynamic_cast<jit::GraphFunction*>(&method.function());
    if (function == nullptr) continue;
    names.push_back(method.name());
    const auto graph = function->graph();
    if (!graph->inputs().empty()) collect_own_calls(graph->block(), graph->inputs()[0]->type(), called);
  }
  std::erase_if(names, [&](const std::string& name) {
    const bool asked_for = std::find(wanted.begin(), wanted.end(), name) != wanted.end();
    return name != "forward" && !asked_for && called.count(name);
  });
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name == "forward"; });
  return names;
}

// Experts that a projection has scores for, from the shape of its weight.
std::optional<int64_t> projected_size(const MethodGraph& graph, const Projection& projection) {
  // The weight itself, or what is left of it behind casts and transposes.
  const jit::Value* value = projection.parameter;
  bool transposed = false;
  while (!graph.constant(value).has_value()) {
    const jit::Node* node = value->node();
    if (node->inputs().empty()) return std::nullopt;
    const OpKind kind = op_kind(*node);
    if (kind == OpKind::kMoveAxis)
      transposed = !transposed;
    else if (kind != OpKind::kCopy && kind != OpKind::kElementwise && kind != OpKind::kMultiply)
      return std::nullopt;
    value = node->input(0);
  }
  const auto constant = graph.constant(value);
  if (!constant->isTensor() || !constant->toTensor().defined() || constant->toTensor().dim() < 2) return std::nullopt;
  const at::Tensor weight = constant->toTensor();
  const std::string name = base_name(*projection.node);
  if (name == "einsum" || name == "tensordot" || name == "bilinear") return std::nullopt;
  const bool rows_are_experts =
      name == "linear" || name == "cdist" || name == "inner" || name.rfind("conv", 0) == 0 || name == "_convolution";
  if (rows_are_experts) return transposed ? weight.size(-1) : weight.size(0);
  return transposed ? weight.size(-2) : weight.size(-1);
}

std::string printed(const jit::Node* node) {
  std::ostringstream stream;
  node->print(stream, 0, nullptr, /*print_source_locations=*/false, true, false, false);
  std::string line = stream.str();
  line = line.substr(0, line.find('\n'));
  const size_t from = line.find_first_not_of(' ');
  return from == std::string::npos ? line : line.substr(from);
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

// What is common to the paths of the experts that ids choose: "layers.0.moe.experts".
std::string users_path(const MethodGraph& graph, const RouterCapture& router, const ValueOrigins& origins) {
  std::vector<std::string> common;
  bool first = true;
  const int64_t from = graph.order(router.users.front()), to = graph.order(router.users.back());
  for (jit::Node* node : graph.nodes()) {
    Projection projection;
    if (graph.order(node) < from || graph.order(node) > to || !match_projection(node, origins, projection)) continue;
    const auto path = path_elements(owner_path(graph, projection.parameter));
    if (path.empty()) continue;
    if (first) common = path;
    first = false;
    size_t same = 0;
    while (same < common.size() && same < path.size() && common[same] == path[same]) ++same;
    common.resize(same);
  }
  return join_path(common);
}

void find_in_method(MethodSites& sites, std::vector<SkippedSite>& skipped) {
  const MethodGraph& graph = *sites.graph;
  const ValueOrigins origins(graph);
  std::set<const jit::Node*> claimed;
  std::vector<RouterRefusal> refusals;
  auto captured = [&](const std::vector<jit::Value*>& ids) {
    return std::any_of(sites.routers.begin(), sites.routers.end(), [&](const RouterCapture& other) {
      return std::any_of(ids.begin(), ids.end(), [&](const jit::Value* value) {
        return std::any_of(other.selected.begin(), other.selected.end(),
                           [&](const jit::Value* theirs) { return first_of_copies(theirs) == first_of_copies(value); });
      });
    });
  };
  for (jit::Node* node : graph.nodes()) {
    Projection projection;
    if (!match_projection(node, origins, projection)) continue;
    const auto size = projected_size(graph, projection);
    const RouterFlow flow(graph, origins, projection, size);
    if (size == 1) {  // one score a token: it can rank tokens, not experts
      if (!flow.picks().empty()) refusals.push_back({flow.picks().back().node, "indexes tokens, not experts"});
      continue;
    }
    RouterDecision decision = decide(graph, flow);
    if (decision.refusal.has_value()) refusals.push_back(*decision.refusal);
    if (!decision.capture.has_value()) continue;
    const auto& picks = decision.capture->picks;
    if (std::any_of(picks.begin(), picks.end(), [&](const jit::Node* pick) { return claimed.count(pick); })) continue;
    claimed.insert(picks.begin(), picks.end());
    decision.capture->owner = owner_path(graph, projection.parameter);
    sites.routers.push_back(std::move(*decision.capture));
  }
  for (jit::Node* node : graph.nodes()) {
    HashIds hash;
    if (!match_hash_ids(node, graph, origins, hash)) continue;
    RouterDecision decision = decide_hash(graph, RouterFlow(graph, origins, hash), hash);
    if (decision.refusal.has_value()) refusals.push_back(*decision.refusal);
    if (!decision.capture.has_value() || captured(decision.capture->selected)) continue;
    decision.capture->owner = users_path(graph, *decision.capture, origins);
    sites.routers.push_back(std::move(*decision.capture));
  }
  std::sort(sites.routers.begin(), sites.routers.end(), [&](const RouterCapture& a, const RouterCapture& b) {
    return graph.order(a.anchor()) < graph.order(b.anchor());
  });
  std::map<int64_t, SkippedSite> by_order;
  for (const auto& refusal : refusals) {
    if (!claimed.count(refusal.node)) by_order[graph.order(refusal.node)] = {printed(refusal.node), refusal.reason};
  }
  for (const jit::Node* node : graph.nodes()) {
    if (node->kind() != jit::aten::topk || claimed.count(node) || by_order.count(graph.order(node))) continue;
    by_order[graph.order(node)] = {printed(node), "its scores come from no projection by a parameter"};
  }
  for (auto& [order, site] : by_order) skipped.push_back(std::move(site));
}

}  // namespace

ModelSites find_router_sites(const jit::Module& module, const std::vector<std::string>& methods) {
  ModelSites model;
  std::vector<HookPoint> hooks;
  int64_t by_order = 0;
  for (const auto& method : entry_methods(module, methods)) {
    MethodSites sites;
    sites.graph = std::make_unique<MethodGraph>(module, method);
    find_in_method(sites, model.discovery.skipped);
    for (const auto& router : sites.routers) {
      HookPoint hook;
      hook.id = static_cast<int64_t>(hooks.size());
      hook.kind = HookKind::kRouter;
      hook.method = method;
      hook.name = router.owner;
      // A frozen model has lost its paths: the name says that only the order is known.
      if (hook.name.empty()) hook.name = "order." + std::to_string(by_order++);
      hook.num_experts = router.num_experts;
      hook.top_k = router.top_k;
      hook.scoring = router.scoring;
      hooks.push_back(hook);
    }
    model.methods.push_back(std::move(sites));
  }
  name_hooks(hooks);
  size_t next = 0;
  for (auto& sites : model.methods) {
    for (size_t i = 0; i < sites.routers.size(); ++i) sites.hooks.push_back(hooks[next++]);
  }
  model.discovery.hooks = std::move(hooks);
  return model;
}

}  // namespace moetap::hooks
