#pragma once

#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"
#include "hooks/points/token_layout.h"

namespace moetap::hooks {

/// What the numbers of an argument mean as a mask, from how the graph uses them: `masked_fill(mask, -inf)` is padding,
/// `masked_fill(mask == 0, -inf)`, `(1 - mask) * -1e9` and `x * mask` are valid, `scores + mask` is additive. kAuto if
/// it shows nothing, or two things.
MaskMeans mask_meaning(const MethodGraph& graph, const ValueOrigins& origins, const torch::jit::Value* argument);

}  // namespace moetap::hooks
