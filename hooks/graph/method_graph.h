#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "hooks/graph/module_calls.h"

namespace moetap::hooks {

/// Whether a method graph knows which of its nodes came from the call of which submodule.
enum class CallsOfModules { kForgotten, kKept };

/// The forks of a graph by the subgraphs that they own.
using ForkNodes = std::unordered_map<const torch::jit::Graph*, torch::jit::Node*>;

/// The graph of one exported method, inlined into one piece of dataflow and normalised for analysis: calls are inlined,
/// also in `prim::fork` subgraphs; tuples that are built and unpacked at once are gone; after an in-place operator
/// every use of the mutated value is a use of the operator's result (the same tensor object). The graph is a copy:
/// editing it changes no module.
class MethodGraph {
 public:
  /// `path` is that of the module from the model's root, "" for the model itself; paths of the graph begin at the
  /// module.
  MethodGraph(const torch::jit::Module& module, std::string method, std::string path = "",
              CallsOfModules calls = CallsOfModules::kForgotten);

  const std::string& method() const { return method_; }
  const std::string& path() const { return path_; }
  /// What the host calls: "forward", "encoder.forward".
  std::string entry() const { return path_.empty() ? method_ : path_ + "." + method_; }
  /// The path from the model's root of what has this path from the module; "" is the module itself.
  std::string path_from_model(const std::string& path) const {
    return path_.empty() || path.empty() ? path_ + path : path_ + "." + path;
  }
  const torch::jit::Module& module() const { return module_; }
  const std::shared_ptr<torch::jit::Graph>& graph() const { return graph_; }

  /// The calls of submodules, in order of execution, the method itself first. Empty unless they were to be kept.
  const std::vector<ModuleCall>& calls() const { return calls_; }

  /// All nodes in order of execution, blocks and fork subgraphs included, each `prim::Return` after its block.
  const std::vector<torch::jit::Node*>& nodes() const { return nodes_; }

  /// Place of a node in `nodes()`. A block's return stands after the nodes of the block.
  int64_t order(const torch::jit::Node* node) const;

  /// The value outside a fork subgraph that is passed for the subgraph's input; null for any other value.
  torch::jit::Value* outer_of(const torch::jit::Value* subgraph_input) const;

  /// The fork node that owns the subgraph; null for the method's graph.
  torch::jit::Node* fork_of(const torch::jit::Graph* graph) const;

  /// The constant that a value holds in this module: a `prim::Constant`, or an attribute of the module. Tensors
  /// included.
  std::optional<c10::IValue> constant(const torch::jit::Value* value) const;
  std::optional<int64_t> constant_int(const torch::jit::Value* value) const;

  /// Elements of the attribute chain from the module to a value, e.g. {"layers", "0", "gate", "weight"}; empty if the
  /// value is no attribute of the module.
  std::vector<std::string> attribute_path(const torch::jit::Value* value) const;

 private:
  void number(torch::jit::Block* block, std::vector<torch::jit::Node*>& markers);

  torch::jit::Module module_;
  std::string method_;
  std::string path_;
  std::shared_ptr<torch::jit::Graph> graph_;
  std::vector<torch::jit::Node*> nodes_;
  std::unordered_map<const torch::jit::Node*, int64_t> order_;
  ForkNodes fork_nodes_;
  std::vector<ModuleCall> calls_;
};

/// The value outside that a fork passes for an input of its subgraph; null for any other value.
torch::jit::Value* passed_to_fork(const torch::jit::Value* value, const ForkNodes& forks);

/// Elements of the attribute chain that leads from the graph's first input (self) to a value, also through forks: {}
/// for self itself, nothing for a value that is no attribute of it.
std::optional<std::vector<std::string>> attribute_chain(const torch::jit::Value* value, const torch::jit::Graph& graph,
                                                        const ForkNodes& forks);

/// True if the node can use the value: it is of the same graph, and made in a block that is around the node.
bool visible_from(const torch::jit::Value* value, const torch::jit::Node* node);

/// The node as LibTorch prints it, one line.
std::string printed(const torch::jit::Node* node);

/// The subgraph of a `prim::fork`; null for any other node.
std::shared_ptr<torch::jit::Graph> fork_subgraph(const torch::jit::Node* node);

}  // namespace moetap::hooks
