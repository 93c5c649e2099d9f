#include "cli/report/pair_cells.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

namespace moetap::cli {

int64_t num_cells(const nlohmann::ordered_json& matrix) {
  int64_t cells = 0;
  if (!matrix.is_array()) return 0;
  for (const auto& row : matrix) cells += static_cast<int64_t>(row.size());
  return cells;
}

nlohmann::ordered_json largest_cells(const nlohmann::ordered_json& matrix, PairKind kind, int64_t most) {
  struct Cell {
    int64_t n, from, to;
  };
  if (!matrix.is_array()) return nullptr;
  const bool symmetric = kind == PairKind::kSymmetric;
  std::vector<Cell> cells;
  for (size_t from = 0; from < matrix.size(); ++from) {
    const auto& row = matrix[from];
    for (size_t to = symmetric ? from + 1 : 0; to < row.size(); ++to) {
      if (!row[to].is_number_integer()) continue;
      const auto n = row[to].get<int64_t>();
      if (n > 0) cells.push_back({n, static_cast<int64_t>(from), static_cast<int64_t>(to)});
    }
  }
  const size_t kept = std::min(cells.size(), static_cast<size_t>(std::max<int64_t>(most, 0)));
  // The order of rows and columns, in which the cells are, decides between equals.
  std::stable_sort(cells.begin(), cells.end(), [](const Cell& a, const Cell& b) { return a.n > b.n; });
  nlohmann::ordered_json from = nlohmann::ordered_json::array(), to = from, n = from;
  for (size_t i = 0; i < kept; ++i) {
    from.push_back(cells[i].from);
    to.push_back(cells[i].to);
    n.push_back(cells[i].n);
    if (symmetric) {
      from.push_back(cells[i].to);
      to.push_back(cells[i].from);
      n.push_back(cells[i].n);
    }
  }
  nlohmann::ordered_json json = {{"from", from}, {"to", to}, {"n", n}};
  json["note"] = kept == cells.size()
                     ? nlohmann::ordered_json(nullptr)
                     : nlohmann::ordered_json(fmt::format(
                           "The {} strongest of {} pairs are kept; summary.json has all.", kept, cells.size()));
  return json;
}

}  // namespace moetap::cli
