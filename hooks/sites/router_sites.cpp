#include "hooks/sites/router_sites.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "hooks/graph/entry_methods.h"
#include "hooks/graph/module_path.h"
#include "hooks/points/hook_names.h"
#include "hooks/sites/spec_sites.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

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

void find_in_method(MethodSites& sites) {
  const MethodGraph& graph = *sites.graph;
  const ValueOrigins origins(graph);
  std::set<const jit::Node*> claimed;
  struct Refused {
    RouterRefusal refusal;
    const jit::Node* source;  // the projection that was followed, or the pick itself
  };
  std::vector<Refused> refusals;
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
      if (!flow.picks().empty()) refusals.push_back({{flow.picks().back().node, "indexes tokens, not experts"}, node});
      continue;
    }
    RouterDecision decision = decide(graph, flow);
    if (decision.refusal.has_value()) refusals.push_back({*decision.refusal, node});
    if (!decision.capture.has_value()) continue;
    const auto& picks = decision.capture->picks;
    if (std::any_of(picks.begin(), picks.end(), [&](const jit::Node* pick) { return claimed.count(pick); })) continue;
    claimed.insert(picks.begin(), picks.end());
    decision.capture->owner = graph.path_from_model(owner_path(graph, projection.parameter));
    sites.routers.push_back(std::move(*decision.capture));
  }
  for (jit::Node* node : graph.nodes()) {
    HashIds hash;
    if (!match_hash_ids(node, graph, origins, hash)) continue;
    RouterDecision decision = decide_hash(graph, RouterFlow(graph, origins, hash), hash);
    if (decision.refusal.has_value()) refusals.push_back({*decision.refusal, node});
    if (!decision.capture.has_value() || captured(decision.capture->selected)) continue;
    decision.capture->owner = graph.path_from_model(users_path(graph, *decision.capture, origins));
    sites.routers.push_back(std::move(*decision.capture));
  }
  std::sort(sites.routers.begin(), sites.routers.end(), [&](const RouterCapture& a, const RouterCapture& b) {
    return graph.order(a.anchor()) < graph.order(b.anchor());
  });
  std::map<int64_t, SkippedNode> by_order;
  for (const auto& [refusal, source] : refusals) {
    if (!claimed.count(refusal.node)) by_order[graph.order(refusal.node)] = {refusal.node, source, refusal.reason};
  }
  for (const jit::Node* node : graph.nodes()) {
    if (node->kind() != jit::aten::topk || claimed.count(node) || by_order.count(graph.order(node))) continue;
    by_order[graph.order(node)] = {node, node, "its scores come from no projection by a parameter"};
  }
  for (auto& [order, skipped] : by_order) sites.skipped.push_back(std::move(skipped));
}

HookPoint hook_point(const RouterCapture& router, const std::string& method) {
  HookPoint hook;
  hook.kind = HookKind::kRouter;
  hook.method = method;
  hook.name = router.owner;
  hook.layer = router.layer;
  hook.component = router.component;
  hook.num_experts = router.num_experts;
  hook.top_k = router.top_k;
  hook.scoring = router.scoring;
  return hook;
}

// Why the routers of a submodule's method cannot be recorded.
SkippedSite shared_class(const EntryMethod& entry) {
  const size_t more = entry.class_sharers.size() - 1;
  return {entry.name(), fmt::format("{} has the same class{}: what is recorded in its code does not tell which of them "
                                    "the host called",
                                    entry.class_sharers[0], more == 0 ? "" : fmt::format(" (and {} more)", more))};
}

}  // namespace

ModelSites find_router_sites(const jit::Module& module, const std::vector<std::string>& methods, const HookSpec& spec) {
  ModelSites model;
  std::vector<SkippedSite> shared;
  int64_t by_order = 0;
  const auto calls = spec.empty() ? CallsOfModules::kForgotten : CallsOfModules::kKept;
  for (const auto& entry : entry_methods(module, methods)) {
    MethodSites sites;
    sites.graph = std::make_unique<MethodGraph>(entry.module, entry.method, entry.path, calls);
    find_in_method(sites);
    for (auto& router : sites.routers) {
      // A frozen model has lost its paths: the name says that only the order is known.
      if (router.owner.empty()) router.owner = "order." + std::to_string(by_order++);
    }
    const bool one_of_several = !entry.path.empty() && !entry.class_sharers.empty();
    if (one_of_several) {
      if (sites.routers.empty()) continue;
      shared.push_back(shared_class(entry));
      if (std::find(methods.begin(), methods.end(), entry.name()) != methods.end()) {
        throw MethodError(fmt::format("method {} cannot be recorded: {}", entry.name(), shared.back().reason));
      }
      continue;
    }
    model.methods.push_back(std::move(sites));
  }
  if (!spec.empty()) apply_hook_spec(spec, model.methods);

  std::vector<HookPoint>& hooks = model.discovery.hooks;
  for (const auto& sites : model.methods) {
    for (const auto& router : sites.routers) hooks.push_back(hook_point(router, sites.graph->entry()));
    for (const auto& skipped : sites.skipped) {
      model.discovery.skipped.push_back({printed(skipped.node), skipped.reason});
    }
  }
  model.discovery.skipped.insert(model.discovery.skipped.end(), shared.begin(), shared.end());
  for (size_t i = 0; i < hooks.size(); ++i) hooks[i].id = static_cast<int64_t>(i);
  name_hooks(hooks);
  size_t next = 0;
  for (auto& sites : model.methods) {
    for (size_t i = 0; i < sites.routers.size(); ++i) sites.hooks.push_back(hooks[next++]);
  }
  return model;
}

}  // namespace moetap::hooks
