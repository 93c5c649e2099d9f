#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "analysis/attention/attention_sums.h"
#include "plugin/journal/logged_attention.h"
#include "plugin/records/attention_regions.h"
#include "plugin/records/layer_table.h"

namespace moetap::plugin {

/// What `summary.json` tells of an attention layer. `total`: of the run; nullptr: it never ran. `experts`: of the
/// routers that go with it, whose names `routers` holds.
nlohmann::ordered_json attention_json(const RunLayer& layer, const AttentionTotal* total,
                                      const std::vector<const ExpertAttentionTotal*>& experts,
                                      const LayerTable& routers, const AttentionRegions& regions);

/// What the log tells of an attention layer in one entry.
nlohmann::ordered_json logged_attention_json(const analysis::AttentionSums& sums);

}  // namespace moetap::plugin
