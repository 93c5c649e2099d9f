#pragma once

#include <functional>
#include <unordered_map>
#include <vector>

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// The uses of ids that a hidden state comes from, the latest on each way. `graph` and `flow` must outlive it.
class ChoicesBehind {
 public:
  ChoicesBehind(const MethodGraph& graph, const RouterFlow& flow);

  /// What was chosen by; empty if no expert has taken part.
  std::vector<const Fact*> of(const torch::jit::Value* hidden) const;

  /// Goes back from `hidden` to the choices, by what is not followed itself. `goes_on` gets each value on the way,
  /// `hidden` first, and says whether those before it are of interest.
  void walk(const torch::jit::Value* hidden, const std::function<bool(const torch::jit::Value*)>& goes_on) const;

 private:
  const MethodGraph& graph_;
  const RouterFlow& flow_;
  std::unordered_map<const torch::jit::Node*, std::vector<const Fact*>> choices_;
};

/// The tensors that a node reads, those in lists included.
std::vector<const torch::jit::Value*> tensors_read(const torch::jit::Node& node);

}  // namespace moetap::hooks
