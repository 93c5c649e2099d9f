#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/points/found_hook.h"
#include "hooks/points/token_layout.h"

namespace moetap::hooks {

/// One place where an attention is computed: the values that its operator gets (operator_schemas.h).
struct AttentionArm {
  torch::jit::Node* node =
      nullptr;  // the fused operator, or the softmax; what makes the last value that a hook spec names
  torch::jit::Node* product = nullptr;  // of query and key; the fused operator itself
  torch::jit::Node* applied = nullptr;  // the product with the values; the fused operator itself
  std::string implementation;           // "sdpa", "eager", ...
  std::string layout;
  int64_t num_heads = 0;  // where they lie in one dimension with the batch

  // Null: not known, where a hook spec names the probabilities.
  torch::jit::Value* query = nullptr;
  torch::jit::Value* key = nullptr;
  // Of a fused operator. Null: none.
  torch::jit::Value* mask = nullptr;
  torch::jit::Value* scale = nullptr;
  torch::jit::Value* causal = nullptr;
  torch::jit::Value* output = nullptr;
  torch::jit::Value* log_sum_exp = nullptr;
  // Said by a hook spec; they go before `scale` and `causal`.
  std::optional<double> said_scale;
  std::optional<bool> said_causal;
  // Of one that the model writes out.
  torch::jit::Value* probabilities = nullptr;
  torch::jit::Value* scores = nullptr;  // null: not known
  // What the model does to the probabilities behind a dropout: to be done once more to those before it, in order.
  std::vector<torch::jit::Node*> behind_dropout;

  bool named_by_hand = false;  // a hook spec names the values: they are read where all are ready

  bool is_fused() const { return probabilities == nullptr; }
  /// What the operator cannot do without: it stands where all of these are ready. None is null.
  std::vector<torch::jit::Value*> needed_values() const {
    if (!is_fused()) return {probabilities};
    std::vector<torch::jit::Value*> values = {query, key};
    if (mask != nullptr) values.push_back(mask);
    if (scale != nullptr && !said_scale) values.push_back(scale);
    if (causal != nullptr && !said_causal) values.push_back(causal);
    return values;
  }
};

/// An attention of a method graph. Where branches each have their own way to compute it, all of them are arms.
/// Its owner is the module that computes it.
struct FoundAttention : FoundHook {
  std::vector<AttentionArm> arms;  // in order of execution
  std::string implementation;      // set by a hook spec; empty: that of the first arm
  TokenLayout tokens, key_tokens;
  bool self_attention = false;
  bool keys_in_buffer = false;  // see HookPoint
  std::optional<int64_t> num_heads, num_key_heads;

  /// Where the attention stands in the order of execution.
  const torch::jit::Node* anchor() const { return arms[0].node; }
};

}  // namespace moetap::hooks
