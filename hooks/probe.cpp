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

/// True for what tells of a tensor without its elements.
bool reads_no_elements(const jit::Node* node) {
  static const jit::Symbol kinds[] = {symbol("aten::size"),  symbol("aten::dim"),   symbol("aten::len"),
                                      symbol("aten::numel"), symbol("prim::dtype"), symbol("prim::device")};
  return std::find(std::begin(kinds), std::end(kinds), node->kind()) != std::end(kinds);
}

/// What a `moetap::router` reports, followed back to the model's value. See ProbedValue.
struct Reported {
  jit::Value* value = nullptr;
  jit::Value* source = nullptr;  // null: it is computed for the report
  std::vector<ReportStep> steps = {};
  jit::Node* after = nullptr;  // the node behind which the source holds what the model uses
};

/// The step of a node that the pass has inserted; empty for one that computes.
std::optional<ReportStep> step_of(const jit::Node* node) {
  const auto dim = [&](size_t input) { return jit::constant_as<int64_t>(node->input(input)).value_or(0); };
  if (node->kind() == symbol("aten::clone")) return ReportStep{};
  if (node->kind() == symbol("aten::movedim")) return ReportStep{ReportStep::Kind::kMoveDim, dim(1), dim(2)};
  if (node->kind() == symbol("aten::unsqueeze")) return ReportStep{ReportStep::Kind::kAddDim, dim(1)};
  if (node->kind() == symbol("aten::sum")) return ReportStep{ReportStep::Kind::kSumDim, -1};
  return std::nullopt;
}

Reported follow_back(jit::Value* value, const InPlaceWrites& writes) {
  static const jit::Symbol argsort = symbol("aten::argsort");
  Reported reported{value, value};
  // What the pass has inserted has no other use.
  while (reported.source->uses().size() == 1 && reported.source->node()->kind() != jit::prim::Param) {
    const jit::Node* node = reported.source->node();
    const auto step = step_of(node);
    if (!step) {
      // Ids by weight, weights that are put back from another order, and slots without those of shared experts are
      // computed for the report.
      const bool computes = node->kind() == argsort || node->kind() == jit::aten::scatter;
      if (computes || node->kind() == jit::aten::slice) reported.source = nullptr;
      break;
    }
    reported.steps.insert(reported.steps.begin(), *step);
    reported.source = const_cast<jit::Value*>(node->input(0));
  }
  if (reported.source != nullptr) reported.after = writes.ready_after({reported.source});
  return reported;
}

struct FromWeights {
  jit::Value* value;
  std::vector<jit::Value*> from;
};

/// The inputs of a node, with the elements of lists.
std::vector<jit::Value*> flat_inputs(jit::Node* node) {
  std::vector<jit::Value*> inputs;
  for (jit::Value* input : node->inputs()) {
    if (input->node()->kind() == jit::prim::ListConstruct) {
      inputs.insert(inputs.end(), input->node()->inputs().begin(), input->node()->inputs().end());
    } else {
      inputs.push_back(input);
    }
  }
  return inputs;
}

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
    // What a branch or a loop returns is what it gives.
    const bool returns = node->kind() == jit::prim::Return && node->owningBlock()->owningNode() != nullptr;
    for (jit::Value* output : returns ? node->owningBlock()->owningNode()->outputs() : node->outputs()) {
      if (dependent.insert(output).second && is_tensor(output) && !returns) values.push_back({output, from});
    }
  }
  return {};
}

/// The probes of a model.
class Probes {
 public:
  /// The probe on a value of the model: one for each value, whatever reports it. `after`: the node behind which the
  /// value is read.
  int64_t on(jit::Value* value, jit::Node* after) {
    const auto [known, is_new] = ids_.try_emplace(value, next_);
    if (is_new) insert(value, after);
    return known->second;
  }
  int64_t on(jit::Value* value) { return on(value, value->node()); }

  /// The probe on what input `index` of `reader` gets, placed before `place`.
  int64_t on_input(jit::Node* reader, size_t index, jit::Node* place) {
    jit::WithInsertPoint here(place);
    reader->replaceInput(index, probe(reader->input(index))->output());
    return next_++;
  }

 private:
  jit::Node* probe(jit::Value* value) const {
    jit::Graph& graph = *value->owningGraph();
    static const jit::Symbol kind = symbol("moetap::probe");
    jit::Value* number = graph.insertConstant(next_);
    jit::Node* node = graph.insertNode(graph.create(kind, {value, number}, 1));
    node->output()->setType(value->type());
    return node;
  }

  void insert(jit::Value* value, jit::Node* after) {
    const bool is_input = after->kind() == jit::prim::Param;
    jit::WithInsertPoint here(is_input ? *after->owningBlock()->nodes().begin() : after->next());
    jit::Node* node = probe(value);
    value->replaceAllUsesAfterNodeWith(node, node->output());
    ++next_;
  }

  std::unordered_map<jit::Value*, int64_t> ids_;
  int64_t next_ = 0;
};

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

std::vector<ProbedRouter> probe_method(const MethodGraph& method, const std::vector<HookPoint>& hooks, Probes& probes) {
  const InPlaceWrites writes(method);
  const ValueOrigins origins(method);
  // All are read before any is edited.
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
  leave_out_begin(method);
  method.graph()->lint();
  return probed;
}

}  // namespace

ProbedModel insert_probes(const Instrumented& instrumented) {
  ProbedModel model{instrumented.module.clone(/*inplace=*/true), {}};
  const std::vector<HookPoint>& hooks = instrumented.discovery.hooks;
  Probes probes;
  std::set<std::string> done;
  for (const HookPoint& hook : hooks) {
    if (!done.insert(hook.method).second) continue;
    const EntryMethod entry = find_entry_method(model.module, hook.method);
    const MethodGraph method(entry.module, entry.method, entry.path);
    for (ProbedRouter& router : probe_method(method, hooks, probes)) model.routers.push_back(std::move(router));
    replace_graph(method);
  }
  forget_optimised_graphs(model.module);
  return model;
}

}  // namespace moetap::hooks
