#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// What the user asks of the activation surfaces.
struct SurfaceOptions {
  int64_t max_layers = 10, max_tokens = 50, max_experts = 64;
  std::vector<std::string> colors;  // #rrggbb from 0 to the largest probability; empty: the theme's
};

/// "Viridis", or "#19448e,#f4b3c2" with two colours or more. Throws CommandError that lists the names.
std::vector<std::string> parse_colorscale(const std::string& text);

/// The probabilities of a run's probe as the activation surfaces show them: {component: [{layer, probability: [tokens]
/// [experts]}]}: the first tokens and experts, and every max(1, n / max_layers)-th layer; fewer layers where a page has
/// no room for so many. Null: the run has no probe. `note` gets what was left out. Throws std::runtime_error if the
/// file is damaged.
nlohmann::ordered_json probe_data(const plugin::RunReader& run, const SurfaceOptions& options, std::string& note);

}  // namespace moetap::cli
