#include "hooks/probe.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "hooks/graph/entry_methods.h"
#include "hooks/graph/in_place_writes.h"
#include "hooks/graph/method_graph.h"
#include "hooks/graph/op_traits.h"
#include "hooks/graph/replace_graph.h"
#include "hooks/graph/value_origins.h"
#include "hooks/points/router_inputs.h"
#include "hooks/probe_attention.h"
#include "hooks/probes.h"

namespace moetap::hooks {
namespace jit = torch::jit;
using namespace router_inputs;

namespace {

jit::Symbol symbol(const char* name) {
  return jit::Symbol::fromQualString(name);
}

jit::Symbol router_symbol() {
  static const jit::Symbol kind = symbol("moetap::router");
  return kind;
}

struct FromWeights {
  jit::Value* value;
  std::vector<jit::Value*> from;
};

/// The operand of an addition of two tensors that depends on the values, where the other does not; null otherwise.
jit::Value* added_operand(jit::Node* node, const std::unordered_set<const jit::Value*>& values) {
  if (node->kind() != jit::aten::add && node->kind() != jit::aten::add_) return nullptr;
  if (!is_tensor(node->input(0)) || !is_tensor(node->input(1))) return nullptr;
  const bool first = values.count(node->input(0)) > 0, second = values.count(node->input(1)) > 0;
  return first == second ? nullptr : node->input(first ? 0 : 1);
}

/// See ProbedRouter::from_weights.
std::vector<FromWeights> values_from_weights(const MethodGraph& method, const std::vector<Reported>& weights) {
  std::unordered_set<const jit::Value*> dependent;
  for (const Reported& reported : weights) {
    if (reported.source != nullptr) dependent.insert(reported.source);
  }
  std::vector<FromWeights> values;
  for (jit::Node* node : method.nodes()) {
    if (reads_no_elements(node) || node->kind() == router_symbol()) continue;
    std::vector<jit::Value*> from;
    for (jit::Value* input : flat_inputs(node)) {
      if (dependent.count(input) > 0) from.push_back(input);
    }
    if (from.empty()) continue;
    if (jit::Value* added = added_operand(node, dependent)) {
      values.push_back({added, {}});
      return values;
    }
    std::erase_if(from, [](const jit::Value* value) { return !is_tensor(value); });
    const bool returns = node->kind() == jit::prim::Return;
    for (jit::Value* output : results_of(node)) {
      if (dependent.insert(output).second && is_tensor(output) && !returns) values.push_back({output, from});
    }
  }
  return {};
}

/// A `moetap::router` of a method: what it reports, read before anything is edited.
struct RouterNode {
  jit::Node* node = nullptr;
  std::optional<Reported> logits;
  std::vector<Reported> selected, weights;
  bool ids_of_arguments = false;
  std::vector<FromWeights> from_weights;
};

/// The indices of a pick, and the node behind which they hold what the model uses.
struct PickedIds {
  jit::Value* ids;
  jit::Node* after;
};

RouterNode read_router(const MethodGraph& method, const InPlaceWrites& writes, const ValueOrigins& origins,
                       jit::Node* node) {
  RouterNode router;
  router.node = node;
  if (is_tensor(node->input(kLogits))) router.logits = follow_back(node->input(kLogits), writes);
  for (auto [input, values] : {std::pair(kSelected, &router.selected), std::pair(kWeights, &router.weights)}) {
    for (const TensorInput& tensor : tensors_of_input(node, input)) {
      values->push_back(follow_back(tensor.value(), writes));
    }
  }
  router.ids_of_arguments = std::all_of(router.selected.begin(), router.selected.end(), [&](const Reported& ids) {
    return ids.source != nullptr && origins.of(ids.source) == Origin::kInput;
  });
  router.from_weights = values_from_weights(method, router.weights);
  return router;
}

ProbedRouter probe_router(const RouterNode& router, const HookPoint& hook, Probes& probes) {
  ProbedRouter probed;
  probed.hook = hook;
  probed.expert_dim = jit::constant_as<int64_t>(router.node->input(kExpertDim)).value();
  probed.form = jit::toIValue(router.node->input(kForm)).value().toStringRef();
  const auto on = [&](const Reported& reported, jit::Node* reader, size_t index) {
    ProbedValue value;
    if (reported.source != nullptr) {
      value.source = probes.on(reported.source, reported.after);
      value.steps = reported.steps;
    }
    value.reported = probes.on_input(reader, index, router.node);
    return value;
  };
  const auto on_tensors = [&](const std::vector<Reported>& values, size_t input) {
    const std::vector<TensorInput> tensors = tensors_of_input(router.node, input);
    std::vector<ProbedValue> all;
    for (size_t i = 0; i < values.size(); ++i) {
      all.push_back(on(values[i], tensors[i].reader, tensors[i].index));
      if (tensors[i].reader != router.node) tensors[i].reader->moveBefore(router.node);  // behind the new probe
    }
    return all;
  };
  probed.ids_of_arguments = router.ids_of_arguments;
  if (router.logits) probed.logits = on(*router.logits, router.node, kLogits);
  if (is_tensor(router.node->input(kScores))) probed.scores = probes.on_input(router.node, kScores, router.node);
  probed.selected = on_tensors(router.selected, kSelected);
  probed.weights = on_tensors(router.weights, kWeights);
  return probed;
}

std::vector<WeightedValue> probe_weighted(const std::vector<FromWeights>& values, Probes& probes) {
  std::vector<WeightedValue> probed;
  for (const FromWeights& each : values) {
    probed.push_back({probes.on(each.value), {}});
    for (jit::Value* from : each.from) probed.back().from.push_back(probes.on(from));
  }
  return probed;
}

// The operators get a handle that no recorder owns: they do nothing.
void leave_out_begin(const MethodGraph& method) {
  static const jit::Symbol begin = symbol("moetap::begin");
  for (jit::Node* node : method.nodes()) {
    if (node->kind() != begin) continue;
    jit::WithInsertPoint here(node);
    node->output()->replaceAllUsesWith(method.graph()->insert(symbol("aten::zeros"), {std::vector<int64_t>{1}},
                                                              {jit::NamedValue("dtype", at::kLong)}));
    node->destroy();
    return;
  }
}

void probe_method(const MethodGraph& method, const std::vector<HookPoint>& hooks, Probes& probes, ProbedModel& model) {
  const InPlaceWrites writes(method);
  const ValueOrigins origins(method);
  // All are read before any is edited.
  const std::vector<AttentionNode> attentions = read_attentions(method, writes);
  std::vector<RouterNode> routers;
  std::vector<PickedIds> picks;
  for (jit::Node* node : method.nodes()) {
    if (node->kind() == router_symbol()) routers.push_back(read_router(method, writes, origins, node));
    if (op_kind(*node) == OpKind::kPick && !node->outputs().empty() && is_tensor(node->outputs().back())) {
      picks.push_back({node->outputs().back(), writes.ready_after({node->outputs().back()})});
    }
  }
  std::vector<ProbedRouter> probed;
  for (const RouterNode& router : routers) {
    const auto id = static_cast<size_t>(jit::constant_as<int64_t>(router.node->input(kHook)).value());
    probed.push_back(probe_router(router, hooks.at(id), probes));
  }
  // Behind the reported values, whose probes have places of their own.
  std::vector<int64_t> of_picks;
  for (const PickedIds& pick : picks) of_picks.push_back(probes.on(pick.ids, pick.after));
  for (size_t i = 0; i < routers.size(); ++i) {
    probed[i].from_weights = probe_weighted(routers[i].from_weights, probes);
    probed[i].picks = of_picks;
  }
  for (const AttentionNode& attention : attentions) {
    model.attentions.push_back(probe_attention(attention, hooks.at(static_cast<size_t>(attention.hook)), probes));
  }
  std::move(probed.begin(), probed.end(), std::back_inserter(model.routers));
  leave_out_begin(method);
  method.graph()->lint();
}

}  // namespace

ProbedModel insert_probes(const Instrumented& instrumented) {
  ProbedModel model{instrumented.module.clone(/*inplace=*/true), {}, {}};
  const std::vector<HookPoint>& hooks = instrumented.discovery.hooks;
  Probes probes;
  std::set<std::string> done;
  for (const HookPoint& hook : hooks) {
    if (!done.insert(hook.method).second) continue;
    const EntryMethod entry = find_entry_method(model.module, hook.method);
    const MethodGraph method(entry.module, entry.method, entry.path);
    probe_method(method, hooks, probes, model);
    replace_graph(method);
  }
  forget_optimised_graphs(model.module);
  return model;
}

}  // namespace moetap::hooks
