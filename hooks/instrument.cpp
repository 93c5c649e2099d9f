#include "hooks/instrument.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>

#include <set>
#include <stdexcept>

#include "hooks/attention/insert_attention.h"
#include "hooks/graph/in_place_writes.h"
#include "hooks/graph/replace_graph.h"
#include "hooks/points/forward_handle.h"
#include "hooks/points/router_inputs.h"
#include "hooks/routers/insert_router.h"
#include "hooks/sites/model_sites.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

jit::Symbol symbol(const char* name) {
  return jit::Symbol::fromQualString(name);
}

// The methods' graphs of a module and its submodules, each once.
std::vector<std::shared_ptr<jit::Graph>> graphs_of(const jit::Module& module) {
  std::vector<std::shared_ptr<jit::Graph>> graphs;
  std::set<const c10::Type*> seen;
  for (const auto& submodule : module.modules()) {
    if (!seen.insert(submodule.type().get()).second) continue;
    for (const auto& method : submodule.get_methods()) {
      auto* function = dynamic_cast<jit::GraphFunction*>(&method.function());
      if (function != nullptr) graphs.push_back(function->graph());
    }
  }
  return graphs;
}

jit::Node* find_begin(const jit::Module& module) {
  static const jit::Symbol begin = symbol("moetap::begin");
  for (const auto& graph : graphs_of(module)) {
    for (jit::Node* node : graph->nodes()) {
      if (node->kind() == begin) return node;
    }
  }
  return nullptr;
}

// The operators of routers, those in branches, loops and forks too.
void add_routers(const jit::Block* block, std::vector<const jit::Node*>& routers) {
  static const jit::Symbol router = symbol("moetap::router");
  for (const jit::Node* node : block->nodes()) {
    if (node->kind() == router) routers.push_back(node);
    for (const jit::Block* nested : node->blocks()) add_routers(nested, routers);
    if (const auto fork = fork_subgraph(node)) add_routers(fork->block(), routers);
  }
}

// `moetap::begin` at the start of the method. Returns the handle.
jit::Value* insert_begin(const MethodGraph& method, const std::string& description) {
  jit::Graph& graph = *method.graph();
  jit::WithInsertPoint at_start(*graph.block()->nodes().begin());
  std::vector<jit::Value*> arguments;
  const auto tensor = c10::TensorType::get();
  const auto optional = c10::OptionalType::create(tensor);
  for (jit::Value* input : graph.inputs().slice(1)) {
    if (input->type()->isSubtypeOf(*optional)) arguments.push_back(input);
  }
  jit::Value* text = graph.insertConstant(description);
  jit::Value* name = graph.insertConstant(method.entry());
  jit::Value* list = graph.insertNode(graph.createList(optional, arguments))->output();
  jit::Node* begin = graph.insertNode(graph.create(symbol("moetap::begin"), {text, name, list}, 1));
  begin->output()->setType(tensor);
  return begin->output();
}

// The operator of a hook. One line a kind.
void insert_hook(const MethodSites& sites, const Site& site, const InPlaceWrites& writes, ForwardHandle& handle,
                 RouterInputs inputs) {
  switch (site.hook.kind) {
    case HookKind::kRouter:
      return insert_router(sites.routers[site.place], site.hook, writes, handle, inputs);
    case HookKind::kAttention:
      return insert_attention(sites.attentions[site.place], site.hook, writes, handle);
  }
  TORCH_INTERNAL_ASSERT(false, "no operator is known for hook ", site.hook.name);
}

// A model's own `moetap::log` gets the forward, and component and layer of the last router before it.
void rewrite_logs(const MethodSites& sites, ForwardHandle& handle) {
  static const jit::Symbol log = symbol("moetap::log");
  for (jit::Node* node : sites.graph->nodes()) {
    if (node->kind() != log) continue;
    const HookPoint* owner = nullptr;
    for (const Site& site : sites.sites) {
      if (site.hook.kind != HookKind::kRouter) continue;
      const bool before = sites.graph->order(site.anchor) < sites.graph->order(node);
      if (before || owner == nullptr) owner = &site.hook;
    }
    jit::Graph& graph = *node->owningGraph();
    jit::WithInsertPoint here(node);
    jit::Value* component = graph.insertConstant(owner == nullptr ? "" : owner->component);
    jit::Value* layer = graph.insertConstant(owner == nullptr ? "" : owner->layer);
    graph.insertNode(graph.create(symbol("moetap::log_in_forward"),
                                  {handle.in(&graph), component, layer, node->input(0), node->input(1)}, 0));
    node->destroy();
  }
}

void insert_end(jit::Graph& graph, jit::Value* handle) {
  jit::WithInsertPoint at_end(graph.block()->return_node());
  // See Note [Schemas of the operators].
  jit::Node* end = graph.insertNode(graph.create(symbol("moetap::end"), {handle}, 1));
  end->output()->setType(c10::IntType::get());
  graph.insertNode(graph.create(symbol("moetap::ended"), {end->output()}, 0));
}

void rewrite(const MethodSites& sites, const std::string& description, RouterInputs inputs) {
  const InPlaceWrites writes(*sites.graph);
  jit::Value* handle = insert_begin(*sites.graph, description);
  ForwardHandle handles(*sites.graph, handle);
  for (const Site& site : sites.sites) insert_hook(sites, site, writes, handles, inputs);
  rewrite_logs(sites, handles);
  insert_end(*sites.graph->graph(), handle);
  sites.graph->graph()->lint();
}

}  // namespace

InstrumentedInputs instrumented_inputs(const jit::Module& module) {
  std::vector<const jit::Node*> routers;
  for (const auto& graph : graphs_of(module)) add_routers(graph->block(), routers);
  InstrumentedInputs inputs;
  for (const jit::Node* router : routers) {
    if (router->inputs().size() <= router_inputs::kNoInput) continue;
    if (!router->input(router_inputs::kInput)->mustBeNone()) ++inputs.reported;
    const auto why = jit::constant_as<std::string>(router->input(router_inputs::kNoInput));
    if (inputs.first_why.empty() && why) inputs.first_why = *why;
  }
  return inputs;
}

bool is_instrumented(const jit::Module& module) {
  return find_begin(module) != nullptr;
}

std::string model_description(const jit::Module& module) {
  const jit::Node* begin = find_begin(module);
  if (begin == nullptr) throw std::invalid_argument("the module is not instrumented: it has no moetap::begin");
  return jit::toIValue(begin->input(0)).value().toStringRef();
}

Instrumented instrument(const jit::Module& module, const DescribeModel& describe,
                        const std::vector<std::string>& methods, const HookSpec& spec, HookKinds kinds,
                        RouterInputs inputs) {
  if (is_instrumented(module)) throw std::invalid_argument("the module is instrumented already");
  jit::Module twin = module.clone(/*inplace=*/true);
  ModelSites model = find_sites(twin, methods, spec, kinds);
  const std::string description = describe(model.discovery);
  // A forward is what a method with hooks does: others are not recorded, and use up no sample numbers.
  const bool none = model.discovery.hooks.empty();
  std::erase_if(model.methods, [&](const MethodSites& sites) {
    return sites.sites.empty() && (!none || !sites.graph->path().empty());
  });
  for (const MethodSites& sites : model.methods) rewrite(sites, description, inputs);
  for (const MethodSites& sites : model.methods) replace_graph(*sites.graph);
  if (!model.methods.empty()) forget_optimised_graphs(twin);
  return {std::move(twin), std::move(model.discovery)};
}

}  // namespace moetap::hooks
