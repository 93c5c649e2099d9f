#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <unordered_set>

#include "hooks/graph/method_graph.h"
#include "hooks/routers/found_router.h"

namespace moetap::hooks {

/// The ids at which a router's weights were taken from its scores: indices of a pick, an index of `gather`.
class TakenIds {
 public:
  /// Both must outlive it.
  TakenIds(const MethodGraph& graph, const FoundRouter& router) : graph_(graph), router_(router) {}

  void add(const torch::jit::Value* ids);
  /// Slots of this mask have the weight 0, whatever their ids become.
  void add_unused(const torch::jit::Value* mask) { unused_.insert(mask); }
  bool empty() const { return taken_.empty(); }

  /// True if these are such ids, or no expert's: a slot that is taken out has no weight to compare.
  bool hold(const torch::jit::Value* ids) const;

 private:
  bool is_no_expert(const torch::jit::Value* id) const;
  bool fills_unused(const torch::jit::Node& node) const;
  bool is_changed(const torch::jit::Value* ids) const;

  const MethodGraph& graph_;
  const FoundRouter& router_;
  std::unordered_set<const torch::jit::Value*> taken_, unused_;
};

}  // namespace moetap::hooks
