#include "hooks/graph/module_calls.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/constant_pooling.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/peephole.h>

#include <algorithm>
#include <optional>

#include "hooks/graph/method_graph.h"
#include "hooks/graph/module_path.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

const jit::Symbol kCall = jit::Symbol::attr("moetap_call");  // number of the call
const jit::Symbol kPath = jit::Symbol::attr("moetap_path");  // this and the next two: on the marker before a call
const jit::Symbol kMethod = jit::Symbol::attr("moetap_method");
const jit::Symbol kNames = jit::Symbol::attr("moetap_names");

class CallInliner {
 public:
  explicit CallInliner(jit::Graph& graph) : method_graph_(graph) {}

  void inline_block(jit::Block* block) {
    for (jit::Node* node = *block->nodes().begin(); node != block->return_node(); node = node->next()) {
      if (node->kind() == jit::prim::CallMethod) {
        node = inline_call(node);
        continue;
      }
      if (auto subgraph = fork_subgraph(node)) {
        auto own = subgraph->copy();
        node->g_(jit::attr::Subgraph, own);
        fork_nodes_[own.get()] = node;
        inline_graph(*own);
      }
      for (jit::Block* nested : node->blocks()) inline_block(nested);
    }
  }

  void inline_graph(jit::Graph& graph) {
    inline_block(graph.block());
    jit::Inline(graph);  // what is left: calls of functions and of objects that are no modules
    auto shared = graph.shared_from_this();
    jit::PeepholeOptimize(shared, /*disable_shape_peepholes=*/true);
    jit::ConstantPropagationImmutableTypes(shared);
    jit::ConstantPooling(shared);
  }

 private:
  // Inlines one level. Returns the node behind which the inlined nodes lie: they may hold further calls.
  jit::Node* inline_call(jit::Node* call) {
    const auto type = call->input(0)->type()->cast<c10::ClassType>();
    const auto path = attribute_chain(call->input(0), method_graph_, fork_nodes_);
    if (type == nullptr || !path.has_value()) return call;
    const std::string method = call->s(jit::attr::name);
    jit::Function* callee = type->findMethod(method);
    auto* function = callee == nullptr ? nullptr : jit::tryToGraphFunction(*callee);
    if (function == nullptr) return call;

    jit::Graph& graph = *call->owningGraph();
    const int64_t number = num_calls_++;
    jit::Node* before = graph.create(jit::prim::Print, call->inputs().slice(1), 0);
    before->i_(kCall, number)->s_(kPath, join_path(*path))->s_(kMethod, method);
    std::vector<std::string> names;
    const auto& arguments = function->getSchema().arguments();
    for (size_t i = 1; i < arguments.size(); ++i) names.push_back(arguments[i].name());
    before->ss_(kNames, names);
    before->insertBefore(call);
    jit::Node* next = call->next();
    const auto outputs = jit::inlineCallTo(call, function, function->graph().get());
    jit::Node* behind = graph.create(jit::prim::Print, outputs, 0);
    behind->i_(kCall, number)->insertBefore(next);
    return before;
  }

  jit::Graph& method_graph_;
  ForkNodes fork_nodes_;
  int64_t num_calls_ = 0;
};

void spread_in_block(jit::Block* block) {
  for (jit::Node* node : block->nodes()) {
    for (jit::Block* nested : node->blocks()) spread_in_block(nested);
    if (auto subgraph = fork_subgraph(node)) spread_marked_tuples(*subgraph);
    if (!is_call_marker(node) || node->inputs().size() != 1) continue;
    jit::Node* made = node->input(0)->node();
    if (node->hasAttribute(kPath) || made->kind() != jit::prim::TupleConstruct) continue;
    node->removeAllInputs();
    for (jit::Value* element : made->inputs()) node->addInput(element);
  }
}

}  // namespace

void inline_with_markers(jit::Graph& graph) {
  CallInliner(graph).inline_graph(graph);
}

void spread_marked_tuples(jit::Graph& graph) {
  spread_in_block(graph.block());
  jit::EliminateDeadCode(graph.block());
}

bool is_call_marker(const jit::Node* node) {
  return node->kind() == jit::prim::Print && node->hasAttribute(kCall);
}

void read_call_marker(jit::Node* marker, int64_t place, std::vector<ModuleCall>& calls) {
  const auto values = marker->inputs();
  if (marker->hasAttribute(kPath)) {
    ModuleCall call;
    call.path = marker->s(kPath);
    call.method = marker->s(kMethod);
    call.argument_names = marker->ss(kNames);
    call.arguments.assign(values.begin(), values.end());
    call.first = place;
    call.last = -marker->i(kCall) - 1;  // until the marker behind the call is read, the call's number
    calls.push_back(std::move(call));
    return;
  }
  const auto call = std::find_if(calls.begin(), calls.end(),
                                 [&](const ModuleCall& candidate) { return candidate.last == -marker->i(kCall) - 1; });
  TORCH_INTERNAL_ASSERT(call != calls.end(), "the marker before a call is gone");
  call->last = place;
  call->outputs.assign(values.begin(), values.end());
}

}  // namespace moetap::hooks
