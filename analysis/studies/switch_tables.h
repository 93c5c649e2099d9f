#pragma once

#include <string>
#include <vector>

#include "analysis/studies/mean_sum.h"
#include "analysis/studies/table.h"

namespace moetap::analysis::studies {

/// Switch fractions of one layer between two runs: a term a sample.
struct SwitchRow {
  std::string run_a, run_b, component, layer;
  MeanSum fraction;
};

/// The tables of switch_fraction.h. `rows` are of consecutive runs, `against_last` of each run and the last one.
Result switch_result(const std::vector<SwitchRow>& rows, const std::vector<SwitchRow>& against_last);

}  // namespace moetap::analysis::studies
