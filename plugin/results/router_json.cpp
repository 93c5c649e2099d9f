#include "plugin/results/router_json.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "analysis/routers/router_metrics.h"
#include "analysis/routers/router_sums.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(int64_t value) {
  return value;
}

ordered_json to_json(double value) {
  return value;
}

template <typename Value>
ordered_json to_json(const std::vector<Value>& values);

template <typename Value>
ordered_json to_json(const std::optional<Value>& value) {
  return value ? to_json(*value) : ordered_json(nullptr);
}

template <typename Value>
ordered_json to_json(const std::vector<Value>& values) {
  ordered_json list = ordered_json::array();
  for (const Value& value : values) list.push_back(to_json(value));
  return list;
}

/// [rows * columns] row-major -> [rows][columns]; null: there are none.
ordered_json matrix(std::span<const int64_t> values, int64_t columns) {
  if (values.empty()) return nullptr;
  ordered_json rows = ordered_json::array();
  for (size_t begin = 0; begin < values.size(); begin += static_cast<size_t>(columns)) {
    rows.push_back(ordered_json(values.subspan(begin, static_cast<size_t>(columns))));
  }
  return rows;
}

ordered_json metric_json(const analysis::RouterMetrics& metrics, const analysis::RouterMetric& metric) {
  return std::visit(
      [&](auto member) -> ordered_json {
        if constexpr (std::is_same_v<decltype(member), std::vector<int64_t> analysis::RouterMetrics::*>) {
          if (std::string_view(metric.shape) == "[E, E]") return matrix(metrics.*member, metrics.num_experts);
        }
        return to_json(metrics.*member);
      },
      metric.member);
}

ordered_json transition_json(const analysis::TransitionSums* sums) {
  if (sums == nullptr || !sums->counts.defined()) return nullptr;
  const at::Tensor counts = sums->counts.contiguous();
  return matrix({counts.const_data_ptr<int64_t>(), static_cast<size_t>(counts.numel())}, sums->num_experts_to);
}

analysis::RouterSums no_tokens(const RunLayer& layer) {
  return layer.num_experts > 0 ? analysis::empty_router_sums(layer.num_experts, layer.top_k.value_or(1), 1)
                               : analysis::RouterSums{};
}

}  // namespace

ordered_json router_json(const RunLayer& layer, const analysis::RouterSums* observed,
                         const analysis::TransitionSums* transition) {
  const analysis::RouterSums sums = observed == nullptr ? no_tokens(layer) : *observed;
  const analysis::RouterMetrics metrics = finalize(sums);
  ordered_json json;
  json[keys::kName.name] = layer.name;
  json[keys::kNumExperts.name] = sums.num_experts > 0 ? ordered_json(sums.num_experts) : ordered_json(nullptr);
  json[keys::kTopK.name] = sums.top_k > 0 ? ordered_json(sums.top_k) : to_json(layer.top_k);
  json[keys::kScoring.name] = layer.scoring;
  const bool has_sigmoid_scores = layer.scoring.starts_with("sigmoid");
  for (const analysis::RouterMetric& metric : analysis::kRouterMetrics) {
    if (metric.condition == analysis::MetricCondition::kSigmoidScores && !has_sigmoid_scores) continue;
    json[metric.name] = metric_json(metrics, metric);
  }
  json[keys::kTransition.name] = transition_json(transition);
  return json;
}

}  // namespace moetap::plugin
