#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/run/run_reader.h"

namespace moetap::cli {

/// What a page holds of a finished run, from its manifest and summary: {label, model, task, device, forwards,
/// components: {component: [layer with its metrics]}, attention, phases, warnings}. `usage` and `load_ratio` are left
/// out: the page divides the counts. Matrices of pairs are whole while `pair_bytes` allow, else their largest cells
/// (`coactivation_cells`). Throws CommandError where the run has several ranks (they are merged first) or its summary
/// is damaged.
nlohmann::ordered_json run_data(const plugin::RunReader& run, int64_t pair_bytes);

/// The last folder of a path, by which a page names a run.
std::string folder_name(const std::string& path);

/// Reads a JSON file; throws CommandError with one line.
nlohmann::ordered_json read_json_file(const std::string& path);

}  // namespace moetap::cli
