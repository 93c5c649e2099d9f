#pragma once

#include <unordered_map>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// The handle of a method's forward, which every operator takes (see Note [Schemas of the operators]), where forks do
/// not see it: a fork's subgraph is a graph of its own.
class ForwardHandle {
 public:
  /// `handle` is a value of the method's own graph. `graph` must outlive it.
  ForwardHandle(const MethodGraph& graph, torch::jit::Value* handle);

  /// The handle in the method's graph or in the subgraph of a fork, which gets it as a further input.
  torch::jit::Value* in(torch::jit::Graph* graph);

 private:
  const MethodGraph& method_graph_;
  std::unordered_map<torch::jit::Graph*, torch::jit::Value*> handles_;
};

}  // namespace moetap::hooks
