#include "cli/terminal/routing_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace moetap::cli {
namespace {

constexpr size_t kNumColumns = 8;
using Row = std::array<std::string, kNumColumns>;

std::string real(const nlohmann::ordered_json& layer, const char* key) {
  const auto value = layer.find(key);
  return value != layer.end() && value->is_number() ? fmt::format("{:.4f}", value->get<double>()) : "-";
}

std::string count(const nlohmann::ordered_json& layer, const char* key) {
  const auto value = layer.find(key);
  return value != layer.end() && value->is_number_integer() ? std::to_string(value->get<int64_t>()) : "-";
}

}  // namespace

std::string routing_table(const nlohmann::ordered_json& summary) {
  std::vector<Row> rows = {{"component", "layer", "experts", "tokens", "entropy", "balance", "CV", "dead"}};
  for (const auto& [component, layers] : summary.at("components").items()) {
    for (const auto& [layer, values] : layers.items()) {
      rows.push_back({component, layer, count(values, "num_experts"), count(values, "tokens"),
                      real(values, "entropy_all"), real(values, "balance_loss"), real(values, "load_cv"),
                      count(values, "dead_experts")});
    }
  }
  Row::size_type column = 0;
  std::array<size_t, kNumColumns> widths{};
  for (const auto& row : rows) {
    for (column = 0; column < kNumColumns; ++column) {
      widths[column] = std::max(widths[column], row[column].size());
    }
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line = fmt::format("{:<{}}", row[0], widths[0]);
    for (column = 1; column < kNumColumns; ++column) {
      line += fmt::format("  {:>{}}", row[column], widths[column]);
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace moetap::cli
