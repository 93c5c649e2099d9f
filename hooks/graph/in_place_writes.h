#pragma once

#include <unordered_map>
#include <vector>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// The in-place operators of a method graph, by the memory that they change: says where a value can be read as the
/// model uses it. Places are those of MethodGraph::nodes(), which stay as they are while nodes are added to the graph.
class InPlaceWrites {
 public:
  /// `graph` must outlive it.
  explicit InPlaceWrites(const MethodGraph& graph);

  const MethodGraph& graph() const { return graph_; }

  /// The node behind which all values can be read as they are applied: the last that makes one of them, or that changes
  /// one in place before it is applied. Null if no place sees them all.
  torch::jit::Node* ready_after(const std::vector<torch::jit::Value*>& values) const;

  /// The value as it was made, readable behind `until`: the value itself, or a copy (`aten::clone`, inserted where the
  /// value was made) if it is changed in place up to there. Null for null.
  torch::jit::Value* as_made(torch::jit::Value* value, const torch::jit::Node* until) const;

 private:
  bool applied_before(const torch::jit::Value* value, const torch::jit::Node* node) const;

  const MethodGraph& graph_;
  std::unordered_map<const torch::jit::Value*, std::vector<torch::jit::Node*>> writers_;
};

}  // namespace moetap::hooks
