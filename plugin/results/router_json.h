#pragma once

#include <nlohmann/json.hpp>

#include "analysis/routers/router_sums_values.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

/// One layer of `summary.json`: what the router is, then the metrics of analysis::kRouterMetrics that it has, then the
/// transitions. A value is null where there was nothing to measure. `sums`: one row with pairs, on the host; null: the
/// router saw no token. `transition`: to the next MoE layer that ran; null: there is none.
nlohmann::ordered_json router_json(const RunLayer& layer, const analysis::RouterSums* sums,
                                   const analysis::TransitionSums* transition);

}  // namespace moetap::plugin
