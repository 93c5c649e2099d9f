#include "hooks/graph/method_graph.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/lower_tuples.h>

#include <algorithm>
#include <sstream>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// A copied graph shares the subgraphs of its forks with the original: the copy gets its own before anything is edited.
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

jit::Value* passed_to_fork(const jit::Value* value, const ForkNodes& forks) {
  const jit::Node* node = value->node();
  if (node->kind() != jit::prim::Param) return nullptr;
  const jit::Graph* graph = node->owningGraph();
  const auto fork = forks.find(graph);
  // Parameters of a loop's blocks are not inputs of the graph.
  if (fork == forks.end() || node->owningBlock() != graph->block()) return nullptr;
  return fork->second->input(value->offset());
}

std::optional<std::vector<std::string>> attribute_chain(const jit::Value* value, const jit::Graph& graph,
                                                        const ForkNodes& forks) {
  std::vector<std::string> chain;
  while (true) {
    const jit::Node* node = value->node();
    if (node->kind() == jit::prim::GetAttr) {
      chain.push_back(node->s(jit::attr::name));
      value = node->input(0);
    } else if (const jit::Value* outer = passed_to_fork(value, forks)) {
      value = outer;
    } else {
      break;
    }
  }
  if (graph.inputs().empty() || value != graph.inputs()[0]) return std::nullopt;
  std::reverse(chain.begin(), chain.end());
  return chain;
}

bool visible_from(const jit::Value* value, const jit::Node* node) {
  if (value == nullptr || value->node()->owningGraph() != node->owningGraph()) return false;
  const jit::Block* home = value->node()->owningBlock();
  for (const jit::Block* block = node->owningBlock(); block != nullptr;) {
    if (block == home) return true;
    const jit::Node* owner = block->owningNode();
    block = owner == nullptr ? nullptr : owner->owningBlock();
  }
  return false;
}

std::string printed(const jit::Node* node) {
  std::ostringstream stream;
  node->print(stream, 0, nullptr, /*print_source_locations=*/false, true, false, false);
  std::string line = stream.str();
  line = line.substr(0, line.find('\n'));
  const size_t from = line.find_first_not_of(' ');
  return from == std::string::npos ? line : line.substr(from);
}

MethodGraph::MethodGraph(const jit::Module& module, std::string method, std::string path, CallsOfModules calls)
    : module_(module), method_(std::move(method)), path_(std::move(path)) {
  const auto& function = jit::toGraphFunction(module_.get_method(method_).function());
  const bool keep = calls == CallsOfModules::kKept;
  graph_ = function.graph()->copy();
  if (keep)
    inline_with_markers(*graph_);
  else
    inline_everywhere(*graph_);
  jit::LowerSimpleTuples(graph_);
  forward_mutations(graph_->block());
  std::vector<jit::Node*> markers;
  if (keep) {
    spread_marked_tuples(*graph_);
    ModuleCall whole;
    whole.method = method_;
    const auto inputs = graph_->inputs();
    for (size_t i = 1; i < inputs.size(); ++i) {
      whole.argument_names.push_back(function.getSchema().arguments().at(i).name());
      whole.arguments.push_back(inputs[i]);
    }
    calls_.push_back(std::move(whole));
  }
  number(graph_->block(), markers);
  if (keep) {
    calls_[0].last = static_cast<int64_t>(nodes_.size());
    for (jit::Value* output : graph_->outputs()) {
      jit::Node* made = output->node();
      const bool tuple = graph_->outputs().size() == 1 && made->kind() == jit::prim::TupleConstruct;
      const auto values = tuple ? made->inputs() : at::ArrayRef<jit::Value*>(output);
      calls_[0].outputs.insert(calls_[0].outputs.end(), values.begin(), values.end());
    }
  }
  for (jit::Node* marker : markers) marker->destroy();
}

void MethodGraph::number(jit::Block* block, std::vector<jit::Node*>& markers) {
  auto add = [this](jit::Node* node) {
    order_[node] = static_cast<int64_t>(nodes_.size());
    nodes_.push_back(node);
  };
  for (jit::Node* node : block->nodes()) {
    if (is_call_marker(node)) {
      read_call_marker(node, static_cast<int64_t>(nodes_.size()), calls_);
      markers.push_back(node);
      continue;
    }
    add(node);
    for (jit::Block* nested : node->blocks()) number(nested, markers);
    if (auto subgraph = fork_subgraph(node)) {
      fork_nodes_[subgraph.get()] = node;
      number(subgraph->block(), markers);
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
  return passed_to_fork(subgraph_input, fork_nodes_);
}

std::optional<std::vector<std::optional<int64_t>>> MethodGraph::constant_ints(const jit::Value* value) const {
  std::vector<std::optional<int64_t>> elements;
  if (const auto found = constant(value)) {
    if (found->isInt()) return std::vector{std::optional(found->toInt())};
    if (!found->isIntList()) return std::nullopt;
    for (const int64_t element : found->toIntVector()) elements.push_back(element);
    return elements;
  }
  if (value->node()->kind() == jit::prim::ListConstruct) {
    for (const jit::Value* element : value->node()->inputs()) elements.push_back(constant_int(element));
    return elements;
  }
  if (value->type()->kind() != c10::TypeKind::IntType) return std::nullopt;
  return std::vector{std::optional<int64_t>()};
}

std::vector<std::string> MethodGraph::attribute_path(const jit::Value* value) const {
  return attribute_chain(value, *graph_, fork_nodes_).value_or(std::vector<std::string>());
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
