#include "analysis/studies/assignment.h"

#include <limits>
#include <stdexcept>

namespace moetap::analysis::studies {
namespace {

/// For each column the row that it is given, −1 none. rows <= columns.
std::vector<int64_t> assign_rows(const std::vector<double>& cost, size_t rows, size_t columns) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  // Rows and columns count from 1; 0 stands for the row that is being placed.
  std::vector<double> row_potential(rows + 1), column_potential(columns + 1);
  std::vector<size_t> row_of(columns + 1), reached_from(columns + 1);
  for (size_t row = 1; row <= rows; ++row) {
    std::vector<double> slack(columns + 1, kInfinity);
    std::vector<char> visited(columns + 1);
    row_of[0] = row;
    size_t column = 0;
    do {  // a shortest alternating path from `row` to a free column
      visited[column] = 1;
      const size_t from = row_of[column];
      double step = kInfinity;
      size_t next = 0;
      for (size_t j = 1; j <= columns; ++j) {
        if (visited[j]) continue;
        const double reduced = cost[(from - 1) * columns + j - 1] - row_potential[from] - column_potential[j];
        if (reduced < slack[j]) {
          slack[j] = reduced;
          reached_from[j] = column;
        }
        if (slack[j] < step) {
          step = slack[j];
          next = j;
        }
      }
      for (size_t j = 0; j <= columns; ++j) {
        if (visited[j]) {
          row_potential[row_of[j]] += step;
          column_potential[j] -= step;
        } else {
          slack[j] -= step;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = reached_from[column]) row_of[column] = row_of[reached_from[column]];
  }
  std::vector<int64_t> rows_of_columns(columns, -1);
  for (size_t j = 1; j <= columns; ++j) rows_of_columns[j - 1] = static_cast<int64_t>(row_of[j]) - 1;
  return rows_of_columns;
}

}  // namespace

std::vector<int64_t> optimal_assignment(const std::vector<double>& cost, int64_t rows, int64_t columns) {
  const auto num_rows = static_cast<size_t>(rows), num_columns = static_cast<size_t>(columns);
  if (cost.size() != num_rows * num_columns) throw std::logic_error("optimal_assignment: cost must be [rows, columns]");
  if (num_rows > num_columns) {
    std::vector<double> transposed(cost.size());
    for (size_t i = 0; i < num_rows; ++i) {
      for (size_t j = 0; j < num_columns; ++j) transposed[j * num_rows + i] = cost[i * num_columns + j];
    }
    return assign_rows(transposed, num_columns, num_rows);  // its columns are our rows
  }
  std::vector<int64_t> assigned(num_rows, -1);
  const std::vector<int64_t> rows_of_columns = assign_rows(cost, num_rows, num_columns);
  for (size_t j = 0; j < num_columns; ++j) {
    if (rows_of_columns[j] >= 0) assigned[static_cast<size_t>(rows_of_columns[j])] = static_cast<int64_t>(j);
  }
  return assigned;
}

}  // namespace moetap::analysis::studies
