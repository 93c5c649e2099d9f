#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace moetap::cli {

/// Cuts what a run's attention holds by expert: of patterns, flows and specialisation where many layers have many
/// experts to those with the largest gate mass, as an object by number; then, where all of it is above `most_bytes`, to
/// some layers, evenly. Gives a line that says so; "": all layers are there.
std::string cut_experts(nlohmann::ordered_json& attention, int64_t most_bytes);

/// Leaves out what attention holds by expert.
void drop_experts(nlohmann::ordered_json& attention);

}  // namespace moetap::cli
