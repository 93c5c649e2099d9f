#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

namespace moetap::plugin {

/// How the value of a metric is written: an empty optional is null.
inline nlohmann::ordered_json metric_value(int64_t value) {
  return value;
}
inline nlohmann::ordered_json metric_value(double value) {
  return value;
}

template <typename Value>
nlohmann::ordered_json metric_value(const std::vector<Value>& values);

template <typename Value>
nlohmann::ordered_json metric_value(const std::optional<Value>& value) {
  return value ? metric_value(*value) : nlohmann::ordered_json(nullptr);
}

template <typename Value>
nlohmann::ordered_json metric_value(const std::vector<Value>& values) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Value& value : values) list.push_back(metric_value(value));
  return list;
}

/// [rows * columns] row-major -> [rows][columns]; null: there are none.
template <typename Value>
nlohmann::ordered_json metric_matrix(std::span<const Value> values, int64_t columns) {
  if (values.empty()) return nullptr;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (size_t begin = 0; begin < values.size(); begin += static_cast<size_t>(columns)) {
    nlohmann::ordered_json row = nlohmann::ordered_json::array();
    for (const Value& value : values.subspan(begin, static_cast<size_t>(columns))) row.push_back(metric_value(value));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace moetap::plugin
