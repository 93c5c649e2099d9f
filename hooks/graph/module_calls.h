#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <string>
#include <vector>

namespace moetap::hooks {

/// A call of a method of a submodule, as it lies in the inlined graph of the method that reaches it.
struct ModuleCall {
  std::string path;    // of the submodule, from the module whose method the graph is of; "" for that module itself
  std::string method;  // "forward"
  int64_t first = 0;   // its nodes are those of the places [first, last) in the order of execution
  int64_t last = 0;
  std::vector<std::string> argument_names;    // without self
  std::vector<torch::jit::Value*> arguments;  // one a name
  std::vector<torch::jit::Value*> outputs;    // the elements of a tuple that is returned
};

// Note [Calls in the inlined graph]
// LibTorch's inliner keeps of a call no more than the last element of its module's path, and nothing of what it took
// and returned. So the calls are inlined one by one from the outside in, where the attribute chain that leads to a
// module is whole, and a marker is put before and behind what is inlined. The markers are nodes with a side effect (a
// `prim::Print` without text), so that the passes keep them in their place and keep their inputs alive; they are taken
// out before the graph is read any further.

/// Inlines the calls of a method's graph, those in the subgraphs of forks included, with markers around each call of a
/// submodule, and simplifies it as LibTorch's inliner does. The graph must be a copy; forks get subgraphs of their own.
void inline_with_markers(torch::jit::Graph& graph);

/// Gives markers the elements of the tuples that their calls return, once those are seen.
void spread_marked_tuples(torch::jit::Graph& graph);

bool is_call_marker(const torch::jit::Node* node);

/// Adds what a marker says to `calls`, in the order in which calls begin. `place` is that of the node that follows.
void read_call_marker(torch::jit::Node* marker, int64_t place, std::vector<ModuleCall>& calls);

}  // namespace moetap::hooks
