#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/report/training_log.h"

namespace moetap::cli {

/// A table of classes and experts in CSV, mean router probabilities: {rows: [C][E], classes, experts}. `experts` are
/// the names of a header row, `classes` those of a first column that is no number; each is null where there is none.
/// Cells that are no numbers are null, percent become shares; each with a diagnostic. CommandError if it cannot be
/// read.
nlohmann::ordered_json read_affinity_matrix(const std::string& path, std::vector<Diagnostic>& diagnostics);

}  // namespace moetap::cli
