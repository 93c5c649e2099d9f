#include "cli/report/affinity_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>

#include "cli/report/log_numbers.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;
using Level = Diagnostic::Level;

struct Line {
  int64_t number = 0;
  std::vector<std::string> cells;
};

/// Cells of a line of CSV; quoted ones may hold commas and doubled quotes.
std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      cells.back() += c;
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      cells.emplace_back();
    } else if (c != '\r') {
      cells.back() += c;
    }
  }
  return cells;
}

/// Neither a number nor empty.
bool is_name(const std::string& cell) {
  return !number_in(cell) && cell.find_first_not_of(" \t") != std::string::npos;
}

}  // namespace

ordered_json read_affinity_matrix(const std::string& path, std::vector<Diagnostic>& diagnostics) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) throw CommandError(path + ": cannot be read");
  const std::string name = std::filesystem::path(path).filename().string();
  const auto note = [&](Level level, int64_t line, const std::string& text) {
    diagnostics.push_back({level, name, line, text});
  };
  std::vector<Line> lines;
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    if (++number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    if (line.find_first_not_of(" \t\r,") == std::string::npos) {
      note(Level::kInfo, number, "is blank");
    } else {
      lines.push_back({number, cells_of(line)});
    }
  }
  ordered_json experts, classes;
  const auto names_in = [](const Line& line, size_t from) {
    return static_cast<size_t>(
        std::count_if(line.cells.begin() + static_cast<int64_t>(from), line.cells.end(), is_name));
  };
  // A header has a name in every column but perhaps the first; "0,1,2" cannot be told from a row of probabilities,
  // other than that these lie between 0 and 1 and do not count up.
  if (!lines.empty()) {
    const Line& first = lines.front();
    bool counts_up = first.cells.size() > 2;
    for (size_t i = 0; i < first.cells.size() && counts_up; ++i)
      counts_up = number_in(first.cells[i]) == static_cast<double>(i);
    const size_t from = first.cells.size() > 1 ? 1 : 0;
    if (counts_up || (names_in(first, from) > 0 && names_in(first, from) == first.cells.size() - from)) {
      note(Level::kInfo, first.number, "is a header: its names are the experts'");
      experts = first.cells;
      lines.erase(lines.begin());
    }
  }
  const bool has_classes = !lines.empty() && std::all_of(lines.begin(), lines.end(), [](const Line& line) {
    return line.cells.size() > 1 && is_name(line.cells[0]);
  });
  if (has_classes) {
    classes = ordered_json::array();
    if (experts.is_array() && experts.size() == lines.front().cells.size()) experts.erase(experts.begin());
  }
  ordered_json rows = ordered_json::array();
  size_t width = 0;
  for (const Line& line : lines) {
    ordered_json row = ordered_json::array();
    double sum = 0;
    if (has_classes) classes.push_back(line.cells[0]);
    for (size_t i = has_classes ? 1 : 0; i < line.cells.size(); ++i) {
      const std::optional<double> value = number_in(line.cells[i]);
      const bool finite = value && std::isfinite(*value);
      if (!finite)
        note(Level::kBad, line.number,
             fmt::format("column {} is \"{}\", no number", i + 1, line.cells[i].substr(0, 40)));
      row.push_back(finite ? ordered_json(*value) : ordered_json(nullptr));
      sum += finite ? *value : 0;
    }
    if (width != 0 && row.size() != width)
      note(Level::kWatch, line.number, fmt::format("has {} experts, the lines before have {}", row.size(), width));
    if (width == 0) width = row.size();
    if (sum > 50) {
      note(Level::kInfo, line.number, fmt::format("sums to {:.4g}: taken as percent", sum));
      for (auto& cell : row) {
        if (cell.is_number()) cell = cell.get<double>() / 100;
      }
    } else if (std::abs(sum - 1) > 0.02) {
      note(Level::kWatch, line.number, fmt::format("sums to {:.4g}, not to 1", sum));
    }
    rows.push_back(std::move(row));
  }
  if (rows.empty()) note(Level::kBad, 0, "holds no row");
  return {{"rows", std::move(rows)}, {"classes", std::move(classes)}, {"experts", std::move(experts)}};
}

}  // namespace moetap::cli
