#pragma once

#include <nlohmann/json.hpp>

#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// The probabilities of a run's probe as the activation surfaces show them: {component: [{layer, probability: [tokens]
/// [experts]}]}: at most 50 tokens and 64 experts, the first ones, and 10 layers, every max(1, n / 10)-th. Null: the
/// run has no probe. `note` gets what was left out. Throws std::runtime_error if the file is damaged.
nlohmann::ordered_json probe_data(const plugin::RunReader& run, std::string& note);

}  // namespace moetap::cli
