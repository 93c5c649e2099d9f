#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// What a page holds of a run of one rank, from its manifest and summary: {label, model, task, device, forwards,
/// components: {component: [layer with its metrics]}, attention, phases, warnings}. `usage` and `load_ratio` are left
/// out: the page divides the counts. Throws CommandError where the summary is damaged.
nlohmann::ordered_json run_data(const plugin::RunReader& run, const std::string& label);

/// The bytes of the matrices of pairs in it.
int64_t bytes_of_pairs(const nlohmann::ordered_json& run);

/// Cuts the matrices of pairs to so many bytes: whole while they fit, else their largest cells (`coactivation_cells`).
void cut_pairs(nlohmann::ordered_json& run, int64_t most_bytes);

/// The last folder of a path, by which a page names a run.
std::string folder_name(const std::string& path);

/// Reads a JSON file; throws CommandError with one line.
nlohmann::ordered_json read_json_file(const std::string& path);

}  // namespace moetap::cli
