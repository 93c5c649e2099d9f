#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>

#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"

namespace moetap::hooks {

/// Expert ids that are computed from the method's arguments alone: a table of ids, or a remainder.
struct HashIds {
  torch::jit::Value* ids = nullptr;
  std::optional<int64_t> num_experts;
  std::optional<int64_t> top_k;
  bool has_slots = false;  // the last dimension is that of the slots
};

/// True if the node computes such ids; fills `hash`. Whether the ids choose experts is seen when they are followed.
bool match_hash_ids(torch::jit::Node* node, const MethodGraph& graph, const ValueOrigins& origins, HashIds& hash);

}  // namespace moetap::hooks
