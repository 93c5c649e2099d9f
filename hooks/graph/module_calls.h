#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <string>
#include <vector>

namespace moetap::hooks {

/// A call of a submodule's method in the inlined graph of the method that reaches it.
struct ModuleCall {
  std::string path;    // from the module of the graph's method to the submodule; "" is that module itself
  std::string method;  // "forward"
  int64_t first = 0;   // its nodes are MethodGraph::nodes() [first, last)
  int64_t last = 0;
  std::vector<std::string> argument_names;    // without self
  std::vector<torch::jit::Value*> arguments;  // one a name
  std::vector<torch::jit::Value*> outputs;    // of a returned tuple its elements
};

// Note [Calls in the inlined graph]
// LibTorch's inliner keeps only the last element of the path of a called module, and neither the call's arguments nor
// its results. So calls are inlined here one by one, from the outside in: then the attribute chain that leads to a
// module is complete. A marker is put before and behind the inlined nodes. It is a node with a side effect (a
// `prim::Print` without text), so that LibTorch's passes keep its place and its inputs. MethodGraph removes the markers
// when it has read them.

/// Inlines the calls of a method's graph, those in the subgraphs of forks included, with markers around each call of a
/// submodule, and simplifies it as LibTorch's inliner does. The graph must be a copy; forks get subgraphs of their own.
void inline_with_markers(torch::jit::Graph& graph);

/// Where a call returns a tuple, gives its marker the tuple's elements. Call it after LowerSimpleTuples.
void spread_marked_tuples(torch::jit::Graph& graph);

bool is_call_marker(const torch::jit::Node* node);

/// Adds the call of a marker to `calls`, which are in the order in which they begin, or ends it. `place` is that of the
/// next node.
void read_call_marker(torch::jit::Node* marker, int64_t place, std::vector<ModuleCall>& calls);

}  // namespace moetap::hooks
