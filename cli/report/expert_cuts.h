#pragma once

#include <nlohmann/json.hpp>

namespace moetap::cli {

/// Keeps the attention of experts within the page's size: of `attention` ({component: [layer]}), the patterns and flows
/// of the experts with the largest gate mass, equally many in every layer; those of the others become null. Changes
/// nothing where all of them are little. A layer that lost some gets `kept_patterns` or `kept_flows`, the number.
void cut_experts(nlohmann::ordered_json& attention);

}  // namespace moetap::cli
