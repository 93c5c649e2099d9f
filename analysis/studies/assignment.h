#pragma once

#include <cstdint>
#include <vector>

namespace moetap::analysis::studies {

/// Optimal assignment (the Hungarian method with potentials, O(rows² columns)): for each row the column that it is
/// given, no column twice, so that the sum of costs is smallest; −1 where there are more rows than columns. `cost` is
/// [rows, columns], row-major and finite. Which of several optimal assignments is found depends on `cost` alone.
/// Source: Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics Quarterly 2 (1955).
std::vector<int64_t> optimal_assignment(const std::vector<double>& cost, int64_t rows, int64_t columns);

}  // namespace moetap::analysis::studies
