#include "plugin/results/router_json.h"

#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "analysis/routers/router_metrics.h"
#include "analysis/routers/router_sums.h"
#include "plugin/results/json_keys.h"
#include "plugin/results/metric_json.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

/// [rows * columns] row-major -> [rows][columns]; null: there are none.
ordered_json matrix(std::span<const int64_t> values, int64_t columns) {
  if (values.empty()) return nullptr;
  return metric_lists(values, std::vector<int64_t>{static_cast<int64_t>(values.size()) / columns, columns});
}

ordered_json metric_json(const analysis::RouterMetrics& metrics, const analysis::RouterMetric& metric) {
  return std::visit(
      [&](auto member) -> ordered_json {
        if constexpr (std::is_same_v<decltype(member), std::vector<int64_t> analysis::RouterMetrics::*>) {
          if (std::string_view(metric.shape) == "[E, E]") return matrix(metrics.*member, metrics.num_experts);
        }
        return metric_value(metrics.*member);
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
  json[keys::kTopK.name] = sums.top_k > 0 ? ordered_json(sums.top_k) : metric_value(layer.top_k);
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
