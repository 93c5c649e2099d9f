#include "cli/terminal/routing_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <variant>
#include <vector>

#include "analysis/routers/router_metrics.h"
#include "plugin/results/json_keys.h"

namespace moetap::cli {
namespace {

constexpr size_t kNumColumns = 8;
using Row = std::array<std::string, kNumColumns>;
using Metrics = analysis::RouterMetrics;

std::string real(const nlohmann::ordered_json& layer, const char* key) {
  const auto value = layer.find(key);
  return value != layer.end() && value->is_number() ? fmt::format("{:.4f}", value->get<double>()) : "-";
}

std::string count(const nlohmann::ordered_json& layer, const char* key) {
  const auto value = layer.find(key);
  return value != layer.end() && value->is_number_integer() ? std::to_string(value->get<int64_t>()) : "-";
}

/// The metric's key in the summary.
template <typename Value>
const char* key_of(Value Metrics::*member) {
  for (const analysis::RouterMetric& metric : analysis::kRouterMetrics) {
    const auto* value = std::get_if<Value Metrics::*>(&metric.member);
    if (value != nullptr && *value == member) return metric.name;
  }
  return "";
}

}  // namespace

std::string routing_table(const nlohmann::ordered_json& summary) {
  std::vector<Row> rows = {{"component", "layer", "experts", "tokens", "entropy", "balance", "CV", "dead"}};
  for (const auto& [component, layers] : summary.at(plugin::keys::kComponents.name).items()) {
    for (const auto& [layer, values] : layers.items()) {
      rows.push_back({component, layer, count(values, plugin::keys::kNumExperts.name),
                      count(values, key_of(&Metrics::tokens)), real(values, key_of(&Metrics::entropy_all)),
                      real(values, key_of(&Metrics::balance_loss)), real(values, key_of(&Metrics::load_cv)),
                      count(values, key_of(&Metrics::dead_experts))});
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
