#pragma once

#include <unordered_map>
#include <vector>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// True if the value, or a view of it, is changed in place.
bool is_written(const torch::jit::Value* value);

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

  /// The value as the model first reads it, readable behind `until`: the value itself, or a copy (`aten::clone`,
  /// inserted before that reading) if it is changed in place between the two. Null for null.
  torch::jit::Value* as_read(torch::jit::Value* value, const torch::jit::Node* until) const;

  /// The value as `reader` reads it, readable behind `until`: the value itself, or a copy that is inserted before
  /// `reader`.
  torch::jit::Value* as_read_by(torch::jit::Node* reader, torch::jit::Value* value,
                                const torch::jit::Node* until) const;

  /// True if the value still holds behind `until` what the model first read.
  bool is_as_read(const torch::jit::Value* value, const torch::jit::Node* until) const;

 private:
  bool applied_before(const torch::jit::Value* value, const torch::jit::Node* node) const;
  /// True if the node computes what is written over `value`, and nothing else: `w[:, 1] = 1 - w[:, 0]`. That is part of
  /// how the value is made.
  bool makes(const torch::jit::Node* node, const torch::jit::Value* value) const;
  struct Reading {
    bool changed_behind = false;       // up to the place that was asked for
    torch::jit::Node* node = nullptr;  // the first; null: none up to that place
  };
  Reading reading_of(const torch::jit::Value* value, const torch::jit::Node* until) const;
  torch::jit::Node* first_reading(const torch::jit::Value* value) const;

  const MethodGraph& graph_;
  std::unordered_map<const torch::jit::Value*, std::vector<torch::jit::Node*>> writers_;
};

}  // namespace moetap::hooks
