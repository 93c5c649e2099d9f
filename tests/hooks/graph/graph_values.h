#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <stdexcept>
#include <string>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks::testing {

/// The value that the TorchScript text calls `name`, anywhere in a method's graph; the last one of that name.
inline torch::jit::Value* value_named(const MethodGraph& graph, const std::string& name) {
  torch::jit::Value* found = nullptr;
  auto look_at = [&](torch::jit::Value* value) {
    if (value->hasDebugName() && value->debugNameBase() == name) found = value;
  };
  for (torch::jit::Value* input : graph.graph()->inputs()) look_at(input);
  for (torch::jit::Node* node : graph.nodes()) {
    for (torch::jit::Value* output : node->outputs()) look_at(output);
  }
  if (found == nullptr)
    throw std::invalid_argument("no value is named " + name + " in " + graph.graph()->toString(false));
  return found;
}

/// The first node of a kind such as "aten::topk".
inline torch::jit::Node* node_of_kind(const MethodGraph& graph, const std::string& kind) {
  for (torch::jit::Node* node : graph.nodes()) {
    if (node->kind().toQualString() == kind) return node;
  }
  throw std::invalid_argument("no node is of kind " + kind + " in " + graph.graph()->toString(false));
}

}  // namespace moetap::hooks::testing
