#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace moetap::hooks {

/// The implementation whose operator projects its own query and key: `aten::_native_multi_head_attention`.
inline constexpr const char* kPackedImplementation = "mha";

struct PackedQueryAndKey {
  torch::jit::Value* query;  // [batch, heads, queries, size of a head]
  torch::jit::Value* key;    // [batch, heads, keys, size of a head]
  torch::jit::Value* mask;   // Tensor?, true keeps; broadcasts to [batch, heads, queries, keys]
};

/// Inserts at the graph's insert point what makes query, key and mask from the inputs of the operator.
PackedQueryAndKey insert_packed_projection(torch::jit::Node* attention);

}  // namespace moetap::hooks
