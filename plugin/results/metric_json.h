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

/// Row-major values of a shape that begins with `sizes`: nested lists.
template <typename Value>
nlohmann::ordered_json metric_lists(std::span<const Value> values, std::span<const int64_t> sizes) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  if (sizes.size() <= 1) {
    for (const Value& value : values) list.push_back(metric_value(value));
    return list;
  }
  if (sizes[0] == 0) return list;
  const size_t step = values.size() / static_cast<size_t>(sizes[0]);
  for (size_t begin = 0; begin < values.size(); begin += step) {
    list.push_back(metric_lists(values.subspan(begin, step), sizes.subspan(1)));
  }
  return list;
}

}  // namespace moetap::plugin
