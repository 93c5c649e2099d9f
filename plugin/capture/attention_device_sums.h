#pragma once

#include <cstdint>
#include <vector>

#include "plugin/capture/attention_pending.h"
#include "plugin/capture/graph_replays.h"
#include "plugin/capture/router_pending.h"

namespace moetap::plugin {

// Note [Attention that is summed up on its device]
// The rows of a call, about 160 bytes a query, stay on their device until the forward ends: by then the routers have
// reported, and their ids and weights lie there, too. So sums by sample and by expert are made there, and only they are
// copied, where they are shorter than the rows that they are made of, as in a long prompt. What rows there are, then,
// is settled by Note [The attention of a router] as on the host, but without looking at a token: a router surely sees
// the tokens of an attention call where both have one TokenGroup, and surely does not where neither has padding and
// their numbers differ. Where one must look, all rows that the router may go with are copied, and
// `PendingAttention::finish` decides. So it is with a router that checks itself in this call, whose weights may yet be
// withheld.

/// What a forward's end knows of its attention and routers.
struct DeviceSumsOfForward {
  const ModelDescription& model;
  const std::vector<RouterOfForward>& routers;  // in order of hooks, then of calls
  int64_t num_samples = 1;
  bool keep_values = false;  // the host needs those of each query
};

/// Enqueues in the graph that is being captured what its replays add to `replays`: the sums of all calls, as one
/// sample, and those of the experts of routers that surely see a call's tokens. False: of some router that is not
/// known, and nothing by its experts is recorded. Lets go of all rows. The caller's stream waits for those of calls and
/// routers.
bool add_in_graph(const DeviceSumsOfForward& forward, GraphReplays& replays, std::vector<MeasuredAttention*> calls);

/// Enqueues the sums of those calls that are added up on their devices (`MeasuredAttention::sums`, `by_expert`), and
/// lets go of their rows. `calls`: in order of hooks, then of calls. Does not block.
void add_on_devices(const DeviceSumsOfForward& forward, HostCopies& copies, std::vector<MeasuredAttention*> calls);

}  // namespace moetap::plugin
