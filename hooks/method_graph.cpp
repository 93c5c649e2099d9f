#include "hooks/method_graph.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <algorithm>

#include "hooks/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// A copied graph shares the subgraphs of its forks with the original: give the copy its own before anything is edited.
void inline_everywhere(jit::Graph& graph) {
  jit::Inline(graph);
  std::function<void(jit::Block*)> own_forks = [&](jit::Block* block) {
    for (jit::Node* node : block->nodes()) {
      if (auto subgraph = fork_subgraph(node)) {
        auto own = subgraph->copy();
        inline_everywhere(*own);
        node->g_(jit::attr::Subgraph, own);
      }
      for (jit::Block* nested : node->blocks()) own_forks(nested);
    }
  };
  own_forks(graph.block());
}

void forward_mutations(jit::Block* block) {
  for (jit::Node* node : block->nodes()) {
    for (jit::Block* nested : node->blocks()) forward_mutations(nested);
    if (auto subgraph = fork_subgraph(node)) forward_mutations(subgraph->block());
    if (is_in_place(*node) && node->outputs().size() == 1 && node->inputs().size() >= 1) {
      node->input(0)->replaceAllUsesDominatedByNodeWith(node, node->output());
    }
  }
}

}  // namespace

std::shared_ptr<jit::Graph> fork_subgraph(const jit::Node* node) {
  if (node->kind() != jit::prim::fork || !node->hasAttribute(jit::attr::Subgraph)) return nullptr;
  return node->g(jit::attr::Subgraph);
}

MethodGraph::MethodGraph(const jit::Module& module, std::string method) : module_(module), method_(std::move(method)) {
  graph_ = jit::toGraphFunction(module_.get_method(method_).function()).graph()->copy();
  inline_everywhere(*graph_);
  jit::LowerSimpleTuples(graph_);
  forward_mutations(graph_->block());
  number(graph_->block());
}

void MethodGraph::number(jit::Block* block) {
  auto add = [this](jit::Node* node) {
    order_[node] = static_cast<int64_t>(nodes_.size());
    nodes_.push_back(node);
  };
  for (jit::Node* node : block->nodes()) {
    add(node);
    for (jit::Block* nested : node->blocks()) number(nested);
    if (auto subgraph = fork_subgraph(node)) {
      fork_nodes_[subgraph.get()] = node;
      number(subgraph->block());
    }
  }
  add(block->return_node());
}

int64_t MethodGraph::order(const jit::Node* node) const {
  auto found = order_.find(node);
  if (found != order_.end()) return found->second;
  // A block's parameters are there before the block begins.
  const jit::Node* owner = node->owningBlock()->owningNode();
  return owner == nullptr ? -1 : order(owner);
}

jit::Node* MethodGraph::fork_of(const jit::Graph* graph) const {
  auto found = fork_nodes_.find(graph);
  return found == fork_nodes_.end() ? nullptr : found->second;
}

jit::Value* MethodGraph::outer_of(const jit::Value* subgraph_input) const {
  const jit::Node* node = subgraph_input->node();
  if (node->kind() != jit::prim::Param) return nullptr;
  jit::Node* fork = fork_of(node->owningGraph());
  if (fork == nullptr || node->owningBlock() != node->owningGraph()->block()) return nullptr;
  return fork->input(subgraph_input->offset());
}

std::vector<std::string> MethodGraph::attribute_path(const jit::Value* value) const {
  std::vector<std::string> path;
  while (true) {
    const jit::Node* node = value->node();
    if (node->kind() == jit::prim::GetAttr) {
      path.push_back(node->s(jit::attr::name));
      value = node->input(0);
    } else if (const jit::Value* outer = outer_of(value)) {
      value = outer;
    } else {
      break;
    }
  }
  if (graph_->inputs().empty() || value != graph_->inputs()[0]) return {};
  std::reverse(path.begin(), path.end());
  return path;
}

std::optional<c10::IValue> MethodGraph::constant(const jit::Value* value) const {
  if (value->node()->kind() == jit::prim::Constant) return jit::toIValue(value);
  const auto path = attribute_path(value);
  if (path.empty()) return std::nullopt;
  c10::IValue current = module_._ivalue();
  for (const auto& name : path) {
    if (!current.isObject()) return std::nullopt;
    const auto object = current.toObject();
    if (!object->type()->hasAttribute(name)) return std::nullopt;
    current = object->getAttr(name);
  }
  return current;
}

std::optional<int64_t> MethodGraph::constant_int(const jit::Value* value) const {
  const auto found = constant(value);
  if (!found.has_value() || !found->isInt()) return std::nullopt;
  return found->toInt();
}

}  // namespace moetap::hooks
