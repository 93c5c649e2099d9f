#include <fmt/format.h>
#include <fmt/ranges.h>

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

/// Whether something besides the tokens takes a part of the attention, more than rounding does.
bool has_sinks(const json& attention) {
  constexpr double kLeastMass = 1 - 1e-3;
  return attention.value("key_mass", 1.0) < kLeastMass;
}

}  // namespace

const json* RunAttention::summary_of(size_t layer) const {
  if (!summary_ || !summary_->is_object()) return nullptr;
  const json* found = &*summary_;
  for (const std::string& key : {std::string("attention"), source_.shape().name, source_.shape().layers[layer].id}) {
    const auto next = found->is_object() ? found->find(key) : found->end();
    if (next == found->end()) return nullptr;
    found = &*next;
  }
  return found->is_object() ? found : nullptr;
}

void RunAttention::leave_out_sinks() {
  const plugin::RunReader& run = *source_.runs().front();
  std::ifstream file(plugin::RunPaths(run.path(), run.ranks().front()).about / "summary.json");
  summary_ = std::make_shared<const json>(json::parse(file, nullptr, /*allow_exceptions=*/false));
  has_sinks_.assign(columns_.size(), 0);
  std::vector<std::string> left_out;
  for (size_t l = 0; l < columns_.size(); ++l) {
    const json* attention = summary_of(l);
    if (attention == nullptr || attention->value("num_heads", 2) == 1 || !has_sinks(*attention)) continue;
    has_sinks_[l] = 1;
    columns_[l].clear();
    left_out.push_back(source_.shape().layers[l].id);
  }
  if (left_out.empty()) return;
  notices_.push_back(
      fmt::format("attention of layers {} of {} is left out: sinks take a part of it, which may differ by head, and "
                  "statistics are means over heads; --attention full has what the heads apply",
                  fmt::join(left_out, ", "), source_.shape().name));
}

void RunAttention::read_totals(const std::function<void(const studies::AttentionTotals&)>& use) const {
  if (mode_ != Mode::kStats || source_.runs().front()->ranks().size() != 1) return;
  for (size_t l = 0; l < source_.shape().layers.size(); ++l) {
    const studies::LayerShape& shape = source_.shape().layers[l];
    const json* layer = summary_of(l);
    if (layer == nullptr || has_sinks_[l] != 0) continue;
    const json* experts = of_router(*layer, shape.name);
    if (experts == nullptr) continue;
    std::vector<double> gate_mass = numbers(*experts, "gate_mass"), distance = numbers(*experts, "mean_distance"),
                        flow = numbers(*experts, "flow"), weight = numbers(*experts, "flow_weight"),
                        specialization = numbers(*experts, "specialization");
    // Of rows divided by their mass, which need not be alike.
    if (has_sinks(*layer)) std::fill(distance.begin(), distance.end(), std::numeric_limits<double>::quiet_NaN());
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
