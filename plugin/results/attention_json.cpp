#include "plugin/results/attention_json.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "analysis/attention/attention_metrics.h"
#include "plugin/results/json_keys.h"
#include "plugin/results/metric_json.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

/// The metrics of a layer that the log has of each entry.
constexpr std::string_view kLogged[] = {"entropy", "max_weight", "distance", "first", "region_mass"};

template <typename Value>
ordered_json named(std::span<const Value> values, const std::vector<std::string>& names) {
  ordered_json object = ordered_json::object();
  for (size_t i = 0; i < values.size() && i < names.size(); ++i) object[names[i]] = metric_value(values[i]);
  return object;
}

std::vector<std::string> plane_regions() {
  return {std::begin(analysis::kPlaneRegionNames), std::end(analysis::kPlaneRegionNames)};
}

std::vector<std::string> column_names(int64_t num_regions, bool self) {
  std::vector<std::string> names;
  for (const auto& column : analysis::attention_columns(num_regions, self)) names.push_back(column.name);
  return names;
}

template <typename Value>
ordered_json shaped(std::span<const Value> values, std::string_view shape, const analysis::AttentionMetrics& metrics) {
  if (values.empty()) return nullptr;
  if (shape == "[R, R]") return metric_lists(values, std::vector<int64_t>{metrics.num_regions, metrics.num_regions});
  if (shape == "[6]") return named(values, plane_regions());
  if (shape == "[C]") return named(values, column_names(metrics.num_regions, metrics.self));
  return metric_lists(values, std::vector<int64_t>{static_cast<int64_t>(values.size())});
}

ordered_json metric_json(const analysis::AttentionMetrics& metrics, const analysis::AttentionMetric& metric) {
  return std::visit(
      [&](auto member) -> ordered_json {
        const auto& value = metrics.*member;
        using Type = std::remove_cvref_t<decltype(value)>;
        if constexpr (std::is_same_v<Type, std::vector<std::optional<double>>>) {
          return shaped(std::span<const std::optional<double>>(value), metric.shape, metrics);
        } else if constexpr (std::is_same_v<Type, std::optional<std::vector<double>>>) {
          return value ? shaped(std::span<const double>(*value), metric.shape, metrics) : ordered_json(nullptr);
        } else {
          return metric_value(value);
        }
      },
      metric.member);
}

bool has_metric(const analysis::AttentionMetrics& metrics, const analysis::AttentionMetric& metric) {
  switch (metric.condition) {
    case analysis::AttentionCondition::kSelf:
      return metrics.self;
    case analysis::AttentionCondition::kSampled:
      return metrics.not_sampled_rows > 0;
    case analysis::AttentionCondition::kAlways:
      break;
  }
  return true;
}

std::vector<int64_t> sizes_of(std::string_view shape, const analysis::AttentionExpertMetrics& metrics) {
  const int64_t experts = metrics.num_experts, regions = metrics.num_regions;
  if (shape == "[E, R]") return {experts, regions};
  if (shape == "[E, R, R]") return {experts, regions, regions};
  if (shape == "[E, 6]") return {experts, analysis::kNumPlaneRegions};
  if (shape == "[E, 16, 16]") return {experts, analysis::kPatternBins, analysis::kPatternBins};
  return {experts};
}

ordered_json experts_json(const ExpertAttentionTotal& total, const LayerTable& routers) {
  ExpertAttentionTotal whole = total;
  whole.add_waiting();
  const analysis::AttentionExpertMetrics metrics = finalize_experts(whole.sums);
  ordered_json json;
  json[keys::kRouter.name] = routers.layers()[total.router].name;
  for (const analysis::AttentionExpertMetric& metric : analysis::kAttentionExpertMetrics) {
    json[metric.name] = std::visit(
        [&](auto member) -> ordered_json {
          const auto& value = metrics.*member;
          using Type = std::remove_cvref_t<decltype(value)>;
          if constexpr (std::is_same_v<Type, int64_t>) {
            return value;
          } else {
            using Value = typename Type::value_type;
            return metric_lists(std::span<const Value>(value), sizes_of(metric.shape, metrics));
          }
        },
        metric.member);
  }
  return json;
}

}  // namespace

ordered_json attention_json(const RunLayer& layer, const AttentionTotal* total,
                            const std::vector<const ExpertAttentionTotal*>& experts, const LayerTable& routers,
                            const AttentionRegions& regions) {
  ordered_json json;
  json[keys::kName.name] = layer.name;
  json[keys::kImplementation.name] = layer.implementation;
  const analysis::AttentionSums sums = total == nullptr ? analysis::AttentionSums{} : total->sums;
  const bool ran = total != nullptr;
  json[keys::kNumHeads.name] = ran ? ordered_json(sums.num_heads) : ordered_json(nullptr);
  json[keys::kNumKeyHeads.name] = ran ? ordered_json(total->num_key_heads) : ordered_json(nullptr);
  json[keys::kRegions.name] = regions.names();
  const analysis::AttentionMetrics metrics = finalize(sums);
  for (const analysis::AttentionMetric& metric : analysis::kAttentionMetrics) {
    if (has_metric(metrics, metric)) json[metric.name] = metric_json(metrics, metric);
  }
  // Mostly one router goes with a layer; each has its own sums.
  if (experts.size() == 1) json[keys::kExperts.name] = experts_json(*experts.front(), routers);
  if (experts.size() > 1) {
    ordered_json list = ordered_json::array();
    for (const ExpertAttentionTotal* one : experts) list.push_back(experts_json(*one, routers));
    json[keys::kExperts.name] = std::move(list);
  }
  return json;
}

ordered_json logged_attention_json(const analysis::AttentionSums& sums) {
  const analysis::AttentionMetrics metrics = finalize(sums);
  ordered_json json = ordered_json::object();
  for (const analysis::AttentionMetric& metric : analysis::kAttentionMetrics) {
    if (std::find(std::begin(kLogged), std::end(kLogged), metric.name) == std::end(kLogged)) continue;
    ordered_json value = metric_json(metrics, metric);
    if (!value.is_null()) json[metric.name] = std::move(value);
  }
  return json;
}

}  // namespace moetap::plugin
