#pragma once

#include "hooks/attention/found_attention.h"
#include "hooks/graph/in_place_writes.h"
#include "hooks/points/forward_handle.h"
#include "hooks/points/hook_point.h"

namespace moetap::hooks {

/// Inserts a `moetap::attention` for each arm of an attention, where its values are as the model uses them. Scores that
/// this place does not see, or that are written over before it, are left out. `writes` and `handle` are those of the
/// method graph.
void insert_attention(const FoundAttention& attention, const HookPoint& hook, const InPlaceWrites& writes,
                      ForwardHandle& handle);

}  // namespace moetap::hooks
