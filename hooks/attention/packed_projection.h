#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace moetap::hooks {

/// The implementation whose operator projects its own query and key: `aten::_native_multi_head_attention`, and
/// `aten::_transformer_encoder_layer_fwd`, which contains it.
inline constexpr const char* kPackedImplementation = "mha";

/// True for these operators.
bool is_packed_attention(const torch::jit::Node& node);

/// What such an operator projects, and by what: the weight holds those of query, key and value, one behind the other.
torch::jit::Value* packed_query(torch::jit::Node* attention);
torch::jit::Value* packed_key(torch::jit::Node* attention);
torch::jit::Value* packed_weight(torch::jit::Node* attention);
torch::jit::Value* packed_num_heads(torch::jit::Node* attention);

/// Tensor?: none where the input is a nested tensor, whose sequences have lengths of their own.
struct PackedQueryAndKey {
  torch::jit::Value* query;  // [batch, heads, queries, size of a head]
  torch::jit::Value* key;    // [batch, heads, keys, size of a head]
  torch::jit::Value* mask;   // true keeps; broadcasts to [batch, heads, queries, keys]
};

/// Inserts at the graph's insert point what makes query, key and mask from the inputs of the operator.
PackedQueryAndKey insert_packed_projection(torch::jit::Node* attention);

}  // namespace moetap::hooks
