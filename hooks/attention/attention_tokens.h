#pragma once

#include "hooks/attention/found_attention.h"
#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"
#include "hooks/tokens/token_layouts.h"

namespace moetap::hooks {

/// Fills what queries and keys of an attention are, whether they are the same tokens, and how many heads there are.
void describe_tokens(FoundAttention& attention, const MethodGraph& graph, const ValueOrigins& origins,
                     const TokenLayouts& layouts);

/// True if the dimension `dim` of `value`, which runs along keys, is none of a sequence but of values that were put
/// beside each other where the key was made: the outputs of several layers.
bool keys_are_stacked(const torch::jit::Value* key, const torch::jit::Value* value, size_t dim,
                      const MethodGraph& graph, const TokenFlow& flow);

}  // namespace moetap::hooks
