#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace moetap::cli {

/// The closing table of a run, a line a layer: experts, tokens, entropy, balance, CV, dead experts. `summary` is the
/// content of moetap/summary.json. A value that was not measured is a dash.
std::string routing_table(const nlohmann::ordered_json& summary);

}  // namespace moetap::cli
