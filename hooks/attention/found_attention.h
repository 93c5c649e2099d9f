#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/points/token_layout.h"

namespace moetap::hooks {

/// One place where an attention is computed: the values that its operator gets (operator_schemas.h).
struct AttentionArm {
  torch::jit::Node* node = nullptr;     // the fused operator, or the softmax
  torch::jit::Node* product = nullptr;  // of query and key; the fused operator itself
  torch::jit::Node* applied = nullptr;  // the product with the values; the fused operator itself
  std::string implementation;           // "sdpa", "eager", ...
  std::string layout;
  int64_t num_heads = 0;  // where they lie in one dimension with the batch

  torch::jit::Value* query = nullptr;
  torch::jit::Value* key = nullptr;
  // Of a fused operator. Null: none.
  torch::jit::Value* mask = nullptr;
  torch::jit::Value* scale = nullptr;
  torch::jit::Value* causal = nullptr;
  torch::jit::Value* output = nullptr;
  // Of one that the model writes out.
  torch::jit::Value* probabilities = nullptr;
  torch::jit::Value* scores = nullptr;  // null: not known
  // What the model does to the probabilities behind a dropout: to be done once more to those before it, in order.
  std::vector<torch::jit::Node*> behind_dropout;

  bool is_fused() const { return probabilities == nullptr; }
};

/// An attention of a method graph. Where branches each have their own way to compute it, all of them are arms.
struct FoundAttention {
  std::vector<AttentionArm> arms;  // in order of execution
  std::string owner;               // path of the module that computes it; empty where the graph has lost its paths
  std::string layer;               // set by a hook spec; else empty, and given by name_hooks
  std::string component;           // the same
  TokenLayout tokens, key_tokens;
  bool self_attention = false;
  bool keys_in_buffer = false;  // see HookPoint
  std::optional<int64_t> num_heads, num_key_heads;

  /// Where the attention stands in the order of execution.
  const torch::jit::Node* anchor() const { return arms[0].node; }
};

}  // namespace moetap::hooks
