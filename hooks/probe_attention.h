#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hooks/graph/method_graph.h"
#include "hooks/probes.h"

namespace moetap::hooks {

/// A `moetap::attention` of a method: what it reports, read before anything is edited.
struct AttentionNode {
  torch::jit::Node* node = nullptr;
  int64_t hook = 0;
  std::optional<Reported> query, key, probabilities;
  std::optional<std::optional<double>> scale;
  std::optional<bool> causal;
  torch::jit::Node* applied = nullptr;  // the product with the values; null: none was found
  size_t factor = 0;                    // its input that depends on what is reported
  std::optional<size_t> value;          // its input that is the values
};

std::vector<AttentionNode> read_attentions(const MethodGraph& method, const InPlaceWrites& writes);

ProbedAttention probe_attention(const AttentionNode& attention, const HookPoint& hook, Probes& probes);

}  // namespace moetap::hooks
