#pragma once

#include <cstdint>
#include <optional>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// A softmax, in whatever form it is written.
struct Softmax {
  torch::jit::Node* node = nullptr;     // that gives the probabilities
  torch::jit::Value* scores = nullptr;  // what it reads
  int64_t dim = -1;                     // that it sums over
};

/// The softmax that a node ends: `softmax`, `exp` of `log_softmax`, or `e / (e.sum() + ...)` of an exponential. What is
/// added to the sum is the weight of a sink.
std::optional<Softmax> match_softmax(torch::jit::Node* node, const MethodGraph& graph);

}  // namespace moetap::hooks
