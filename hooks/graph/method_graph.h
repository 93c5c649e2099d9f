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

/// The graph of one exported method, prepared for analysis:
/// - calls are inlined, also in the subgraphs of `prim::fork`;
/// - tuples that are built and unpacked at once are gone;
/// - behind an in-place operator every use of the changed value is a use of the operator's result, which is the same
///   tensor object.
/// The graph is a copy: editing it changes no module.
class MethodGraph {
 public:
  /// `path` leads from the model's root to the module; "" is the model itself. Paths in the graph begin at the module.
  MethodGraph(const torch::jit::Module& module, std::string method, std::string path = "",
              CallsOfModules calls = CallsOfModules::kForgotten);

  const std::string& method() const { return method_; }
  const std::string& path() const { return path_; }
  /// What the host calls: "forward", "encoder.forward".
  std::string entry() const { return path_.empty() ? method_ : path_ + "." + method_; }
  /// Turns a path from the module into one from the model's root. "" is the module itself.
  std::string path_from_model(const std::string& path) const {
    return path_.empty() || path.empty() ? path_ + path : path_ + "." + path;
  }
  const torch::jit::Module& module() const { return module_; }
  const std::shared_ptr<torch::jit::Graph>& graph() const { return graph_; }

  /// The calls of submodules, in order of execution, the method itself first. Empty unless they were to be kept.
  const std::vector<ModuleCall>& calls() const { return calls_; }

  /// All nodes in order of execution, those of blocks and of forks' subgraphs included. A block's `prim::Return` stands
  /// behind the block's other nodes.
  const std::vector<torch::jit::Node*>& nodes() const { return nodes_; }

  /// Place of a node in `nodes()`.
  int64_t order(const torch::jit::Node* node) const;

  /// The value outside a fork subgraph that is passed for the subgraph's input; null for any other value.
  torch::jit::Value* outer_of(const torch::jit::Value* subgraph_input) const;

  /// The fork node that owns the subgraph; null for the method's graph.
  torch::jit::Node* fork_of(const torch::jit::Graph* graph) const;

  /// The constant that a value holds in this module: a `prim::Constant` or an attribute of the module, also a tensor.
  std::optional<c10::IValue> constant(const torch::jit::Value* value) const;
  std::optional<int64_t> constant_int(const torch::jit::Value* value) const;

  /// The elements of a list of integers, or a single integer, as operators take dimensions and sizes; an element that
  /// is no constant is empty. Empty where the elements cannot be told.
  std::optional<std::vector<std::optional<int64_t>>> constant_ints(const torch::jit::Value* value) const;

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

/// Elements of the attribute chain from the graph's first input (self) to a value, also through forks: {} for self
/// itself, std::nullopt for a value that is no attribute of it.
std::optional<std::vector<std::string>> attribute_chain(const torch::jit::Value* value, const torch::jit::Graph& graph,
                                                        const ForkNodes& forks);

/// True if the node can use the value: both are in one graph, and the block that makes the value is around the node.
bool visible_from(const torch::jit::Value* value, const torch::jit::Node* node);

/// The node as LibTorch prints it, one line.
std::string printed(const torch::jit::Node* node);

/// The subgraph of a `prim::fork`; null for any other node.
std::shared_ptr<torch::jit::Graph> fork_subgraph(const torch::jit::Node* node);

}  // namespace moetap::hooks
