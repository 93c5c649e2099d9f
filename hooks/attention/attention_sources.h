#pragma once

#include "hooks/attention/found_attention.h"
#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"

namespace moetap::hooks {

/// True if query and key are projections of the same hidden states. Some models project them in two steps.
bool have_same_source(const AttentionArm& arm, const MethodGraph& graph, const ValueOrigins& origins);

/// True if query and key go back to different arguments or embeddings.
bool come_from_other_texts(const AttentionArm& arm, const MethodGraph& graph, const ValueOrigins& origins);

}  // namespace moetap::hooks
