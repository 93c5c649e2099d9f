#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "cli/studies/run_attention.h"
#include "cli/studies/run_source.h"
#include "plugin/run/run_paths.h"

namespace moetap::cli {
namespace {

using nlohmann::json;

/// All numbers of nested lists, in their order; null is NaN.
void flatten(const json& value, std::vector<double>& out) {
  if (value.is_array()) {
    for (const json& one : value) flatten(one, out);
  } else {
    out.push_back(value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN());
  }
}

std::vector<double> numbers(const json& experts, const char* key) {
  std::vector<double> values;
  if (const auto found = experts.find(key); found != experts.end()) flatten(*found, values);
  return values;
}

/// The object of the router's layer: `experts` is one, or a list where several routers go with the attention layer.
const json* of_router(const json& attention, const std::string& router) {
  const auto experts = attention.find("experts");
  if (experts == attention.end()) return nullptr;
  if (experts->is_object()) return &*experts;
  for (const json& one : *experts) {
    if (one.is_object() && one.value("router", "") == router) return &one;
  }
  return nullptr;
}

}  // namespace

void RunAttention::read_totals(const std::function<void(const studies::AttentionTotals&)>& use) const {
  if (mode_ != Mode::kStats || source_.runs().front()->ranks().size() != 1) return;
  const plugin::RunReader& run = *source_.runs().front();
  std::ifstream file(plugin::RunPaths(run.path(), run.ranks().front()).about / "summary.json");
  const json summary = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!summary.is_object() || !summary.contains("attention")) return;
  const json& components = summary.at("attention");
  const auto layers = components.find(source_.shape().name);
  if (layers == components.end()) return;
  for (size_t l = 0; l < source_.shape().layers.size(); ++l) {
    const studies::LayerShape& shape = source_.shape().layers[l];
    const auto layer = layers->find(shape.id);
    if (layer == layers->end()) continue;
    const json* experts = of_router(*layer, shape.name);
    if (experts == nullptr) continue;
    std::vector<double> gate_mass = numbers(*experts, "gate_mass"), distance = numbers(*experts, "mean_distance"),
                        flow = numbers(*experts, "flow"), weight = numbers(*experts, "flow_weight"),
                        specialization = numbers(*experts, "specialization");
    if (gates_are_weights_[l] == 0) {
      for (auto* values : {&gate_mass, &distance, &flow, &weight, &specialization}) {
        std::fill(values->begin(), values->end(), std::numeric_limits<double>::quiet_NaN());
      }
    }
    studies::AttentionTotals totals;
    totals.layer = static_cast<int64_t>(l);
    totals.num_experts = shape.num_experts;
    const size_t E = gate_mass.size();
    if (E != static_cast<size_t>(shape.num_experts) || weight.size() % E != 0) continue;
    totals.num_regions = static_cast<int64_t>(weight.size() / E);
    totals.gate_mass = gate_mass;
    totals.mean_distance = distance;
    totals.flow = flow;
    totals.flow_weight = weight;
    totals.specialization = specialization;
    use(totals);
  }
}

}  // namespace moetap::cli
