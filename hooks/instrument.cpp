#include "hooks/instrument.h"

#include <fmt/format.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>

#include <set>
#include <stdexcept>
#include <unordered_map>

#include "hooks/sites/router_sites.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

jit::Symbol symbol(const char* name) {
  return jit::Symbol::fromQualString(name);
}

jit::Node* find_begin(const jit::Module& module) {
  static const jit::Symbol begin = symbol("moetap::begin");
  std::set<const c10::Type*> seen;
  for (const auto& submodule : module.modules()) {
    if (!seen.insert(submodule.type().get()).second) continue;
    for (const auto& method : submodule.get_methods()) {
      auto* function = dynamic_cast<jit::GraphFunction*>(&method.function());
      if (function == nullptr) continue;
      for (jit::Node* node : function->graph()->nodes()) {
        if (node->kind() == begin) return node;
      }
    }
  }
  return nullptr;
}

// The value whose memory a value may share, seen through views and in-place operators.
const jit::Value* alias_root(const jit::Value* value) {
  while (!value->node()->inputs().empty() && value->node()->kind() != jit::prim::Param) {
    const jit::Node* node = value->node();
    const OpKind kind = op_kind(*node);
    const bool view = kind == OpKind::kReshape || kind == OpKind::kMoveAxis || kind == OpKind::kSlice ||
                      kind == OpKind::kSelect || kind == OpKind::kCopy || kind == OpKind::kRepeat;
    if (!view && !is_in_place(*node)) break;
    value = node->input(0);
  }
  return value;
}

// Inserts the operators of one method. Positions are places in MethodGraph::nodes(), which stay as they are while nodes
// are added.
class MethodRewriter {
 public:
  explicit MethodRewriter(MethodSites& sites) : sites_(sites), graph_(*sites.graph->graph()) {
    for (jit::Node* node : sites.graph->nodes()) {
      if (is_in_place(*node)) writers_[alias_root(node->input(0))].push_back(node);
    }
  }

  void insert_begin(const std::string& description) {
    jit::WithInsertPoint at_start(*graph_.block()->nodes().begin());
    std::vector<jit::Value*> arguments;
    const auto tensor = c10::TensorType::get();
    const auto optional = c10::OptionalType::create(tensor);
    for (jit::Value* input : graph_.inputs().slice(1)) {
      if (input->type()->isSubtypeOf(*optional)) arguments.push_back(input);
    }
    jit::Value* text = graph_.insertConstant(description);
    jit::Value* method = graph_.insertConstant(sites_.graph->entry());
    jit::Value* list = graph_.insertNode(graph_.createList(optional, arguments))->output();
    jit::Node* begin = graph_.insertNode(graph_.create(symbol("moetap::begin"), {text, method, list}, 1));
    begin->output()->setType(tensor);
    handles_[&graph_] = begin->output();
  }

  void insert_router(const RouterCapture& router, const HookPoint& hook) {
    std::vector<jit::Value*> values = router.selected;
    values.insert(values.end(), router.weights.begin(), router.weights.end());
    jit::Node* after = insertion_point(values);
    jit::Value* logits = visible_from(router.logits, after) ? router.logits : nullptr;
    jit::Value* scores = visible_from(router.scores, after) ? router.scores : nullptr;
    if (logits != nullptr) after = later(after, logits->node());
    if (scores != nullptr) after = later(after, scores->node());

    logits = as_of_now(logits, after);
    scores = as_of_now(scores, after);
    std::vector<jit::Value*> selected = router.selected;
    for (jit::Value*& value : selected) value = as_of_now(value, after);

    jit::Graph& graph = *after->owningGraph();
    jit::Value* handle = handle_in(&graph);
    jit::Node* next = after->next();
    jit::WithInsertPoint here(next);
    logits = with_experts_at(logits, router.logits_dim, router.expert_dim);
    scores = with_experts_at(scores, router.scores_dim, router.expert_dim);
    if (router.selects_all) {
      // In falling order of the weights, of equal ones the lower id first, as a selection would give them.
      selected = {graph.insert(jit::aten::argsort, {router.weights[0]},
                               {jit::NamedValue("stable", true), jit::NamedValue("dim", router.expert_dim),
                                jit::NamedValue("descending", true)})};
    }
    if (router.add_slot_dim) {
      jit::Value* last = graph.insertConstant(int64_t{-1});
      for (jit::Value*& value : selected)
        value = graph.insertNode(graph.create(jit::aten::unsqueeze, {value, last}, 1))->output();
    }
    jit::Value* none = graph.insertConstant(c10::IValue());
    jit::Value* id = graph.insertConstant(hook.id);
    const auto tensor = c10::TensorType::get();
    jit::Value* selected_list = graph.insertNode(graph.createList(tensor, selected))->output();
    jit::Value* weights_list = graph.insertNode(graph.createList(tensor, router.weights))->output();
    jit::Value* dim = graph.insertConstant(router.expert_dim);
    jit::Value* form = graph.insertConstant(router.form);
    graph.insertNode(graph.create(symbol("moetap::router"),
                                  {handle, id, logits != nullptr ? logits : none, scores != nullptr ? scores : none,
                                   selected_list, weights_list, dim, form},
                                  0));
  }

  // A model's own `moetap::log` gets the forward, and the layer of the router that reported last before it.
  void rewrite_logs() {
    static const jit::Symbol log = symbol("moetap::log");
    for (jit::Node* node : sites_.graph->nodes()) {
      if (node->kind() != log) continue;
      const HookPoint* owner = nullptr;
      for (size_t i = 0; i < sites_.routers.size(); ++i) {
        const bool before = sites_.graph->order(sites_.routers[i].anchor()) < sites_.graph->order(node);
        if (before || owner == nullptr) owner = &sites_.hooks[i];
      }
      jit::Graph& graph = *node->owningGraph();
      jit::WithInsertPoint here(node);
      jit::Value* component = graph.insertConstant(owner == nullptr ? "" : owner->component);
      jit::Value* layer = graph.insertConstant(owner == nullptr ? "" : owner->layer);
      graph.insertNode(graph.create(symbol("moetap::log_in_forward"),
                                    {handle_in(&graph), component, layer, node->input(0), node->input(1)}, 0));
      node->destroy();
    }
  }

  void insert_end() {
    jit::WithInsertPoint at_end(graph_.block()->return_node());
    // See Note [Schemas of the operators].
    jit::Node* end = graph_.insertNode(graph_.create(symbol("moetap::end"), {handles_[&graph_]}, 1));
    end->output()->setType(c10::IntType::get());
    graph_.insertNode(graph_.create(symbol("moetap::ended"), {end->output()}, 0));
  }

 private:
  int64_t order(const jit::Node* node) const { return sites_.graph->order(node); }

  jit::Node* later(jit::Node* a, jit::Node* b) const {
    return order(a) < order(b) && a->owningBlock() == b->owningBlock() ? b : a;
  }

  // Behind the last of the values, and behind what still changes them in place before they are applied.
  jit::Node* insertion_point(const std::vector<jit::Value*>& values) const {
    jit::Node* after = values[0]->node();
    for (const jit::Value* value : values) {
      jit::Node* node = const_cast<jit::Node*>(value->node());
      if (order(node) > order(after)) after = node;
    }
    for (const jit::Value* value : values) {
      if (!visible_from(value, after))
        throw std::invalid_argument("its ids and weights are computed in different branches");
    }
    if (after->kind() == jit::prim::Param) after = after->owningBlock()->param_node();
    for (const jit::Value* value : values) {
      const auto found = writers_.find(alias_root(value));
      if (found == writers_.end()) continue;
      for (jit::Node* writer : found->second) {
        // A writer in a nested block has changed the value when its outermost owner in this block is done.
        jit::Node* place = writer;
        while (place != nullptr && place->owningBlock() != after->owningBlock()) {
          place = place->owningBlock()->owningNode();
        }
        if (place != nullptr && order(place) > order(after) && !applied_before(value, place)) after = place;
      }
    }
    return after;
  }

  // True if the value, or a view of it, is used before `node` for more than being looked at or changed in place.
  bool applied_before(const jit::Value* value, const jit::Node* node) const {
    for (const auto& use : value->uses()) {
      if (order(use.user) >= order(node) || is_in_place(*use.user)) continue;
      switch (op_kind(*use.user)) {
        case OpKind::kReduce:
        case OpKind::kCompare:
        case OpKind::kOther:
          break;
        case OpKind::kReshape:
        case OpKind::kMoveAxis:
        case OpKind::kSlice:
        case OpKind::kSelect:
          if (applied_before(use.user->output(0), node)) return true;
          break;
        default:
          return true;
      }
    }
    return false;
  }

  // The value, or a copy taken where it was made if it is changed in place before the hook reads it.
  jit::Value* as_of_now(jit::Value* value, const jit::Node* until) {
    if (value == nullptr) return nullptr;
    const auto found = writers_.find(alias_root(value));
    if (found == writers_.end()) return value;
    bool changed = false;
    for (const jit::Node* writer : found->second) {
      changed = changed || (order(writer) > order(value->node()) && order(writer) <= order(until));
    }
    if (!changed) return value;
    jit::Node* made = value->node();
    jit::WithInsertPoint here(made->next());
    jit::Graph& graph = *made->owningGraph();
    jit::Value* none = graph.insertConstant(c10::IValue());
    jit::Node* clone = graph.insertNode(graph.create(jit::aten::clone, {value, none}, 1));
    return clone->output();
  }

  // A view with the experts where the selection has them.
  jit::Value* with_experts_at(jit::Value* value, int64_t from, int64_t to) {
    if (value == nullptr || from == to) return value;
    jit::Graph& graph = *value->owningGraph();
    jit::Value* source = graph.insertConstant(from);
    jit::Value* target = graph.insertConstant(to);
    return graph.insertNode(graph.create(jit::aten::movedim, {value, source, target}, 1))->output();
  }

  // The forward's handle in the method's graph or in the subgraph of a fork, which takes it as a further input.
  jit::Value* handle_in(jit::Graph* graph) {
    auto found = handles_.find(graph);
    if (found != handles_.end()) return found->second;
    jit::Node* fork = sites_.graph->fork_of(graph);
    TORCH_INTERNAL_ASSERT(fork != nullptr, "graph of a hook is neither the method's nor a fork's");
    fork->addInput(handle_in(fork->owningGraph()));
    jit::Value* handle = graph->addInput();
    handle->setType(c10::TensorType::get());
    handles_[graph] = handle;
    return handle;
  }

  MethodSites& sites_;
  jit::Graph& graph_;
  std::unordered_map<const jit::Value*, std::vector<jit::Node*>>
      writers_;  // in-place operators by the memory they change
  std::unordered_map<jit::Graph*, jit::Value*> handles_;
};

}  // namespace

bool is_instrumented(const jit::Module& module) {
  return find_begin(module) != nullptr;
}

std::string model_description(const jit::Module& module) {
  const jit::Node* begin = find_begin(module);
  if (begin == nullptr) throw std::invalid_argument("the module is not instrumented: it has no moetap::begin");
  return jit::toIValue(begin->input(0)).value().toStringRef();
}

Instrumented instrument(const jit::Module& module, const DescribeModel& describe,
                        const std::vector<std::string>& methods, const HookSpec& spec) {
  if (is_instrumented(module)) throw std::invalid_argument("the module is instrumented already");
  jit::Module twin = module.clone(/*inplace=*/true);
  ModelSites model = find_router_sites(twin, methods, spec);
  const std::string description = describe(model.discovery);
  // A forward is what a method with routers does: others are not recorded, and use up no sample numbers.
  const bool none = model.discovery.hooks.empty();
  std::erase_if(model.methods, [&](const MethodSites& sites) {
    return sites.routers.empty() && (!none || !sites.graph->path().empty());
  });
  for (MethodSites& sites : model.methods) {
    MethodRewriter rewriter(sites);
    rewriter.insert_begin(description);
    for (size_t i = 0; i < sites.routers.size(); ++i) rewriter.insert_router(sites.routers[i], sites.hooks[i]);
    rewriter.rewrite_logs();
    rewriter.insert_end();
    sites.graph->graph()->lint();
  }
  // The twin is new and has never run: its methods have no cached executors, so their graphs can be replaced.
  for (MethodSites& sites : model.methods) {
    const auto own = sites.graph->module().get_method(sites.graph->method());
    jit::Block* block = jit::toGraphFunction(own.function()).graph()->block();
    block->clear();
    while (!block->inputs().empty()) block->eraseInput(block->inputs().size() - 1);
    block->cloneFrom(sites.graph->graph()->block(), [](jit::Value* value) -> jit::Value* {
      TORCH_INTERNAL_ASSERT(false, "value ", value->debugName(), " is used but not defined in the method's graph");
    });
  }
  // Inlining one method into another made LibTorch keep optimised copies of their graphs as they were.
  std::set<const c10::Type*> cleared;
  for (const auto& submodule : twin.modules()) {
    if (model.methods.empty() || !cleared.insert(submodule.type().get()).second) continue;
    for (const auto& method : submodule.get_methods()) {
      if (auto* function = jit::tryToGraphFunction(method.function())) function->clear_optimized_graphs();
    }
  }
  return {std::move(twin), std::move(model.discovery)};
}

}  // namespace moetap::hooks
