#include "plugin/results/log_entry.h"

#include <algorithm>
#include <cmath>

#include "analysis/routers/router_metrics.h"
#include "plugin/results/attention_json.h"
#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

// Why a layer cannot hold a logged value of this name, one line; empty: it can.
std::string refusal(const std::string& name, Attention attention) {
  for (const analysis::LibMoeMetric& metric : analysis::kLibMoeMetrics) {
    // Readers take a key that contains the metric's name: they would read the logged value instead of the metric.
    if (metric.readers == analysis::LibMoeReaders::kFindBySubstring && name.find(metric.name) != std::string::npos) {
      return "the logged value \"" + name + "\" is left out of the log: its name contains \"" + metric.name +
             "\", by which readers find another key";
    }
  }
  for (const analysis::LibMoeMetric& metric : analysis::kLibMoeMetrics) {
    if (name == metric.name || (attention != Attention::kOff && name == keys::kAttention.name)) {
      return "the logged value \"" + name + "\" is left out of the log: moetap measures it itself";
    }
  }
  return "";
}

ordered_json to_json(const CustomValue& value) {
  return std::visit([](auto number) { return ordered_json(number); }, value);
}

bool is_finite(const CustomValue& value) {
  const auto* real = std::get_if<double>(&value);
  return real == nullptr || std::isfinite(*real);
}

/// Writes the keys of one layer.
class LayerWriter {
 public:
  LayerWriter(const LoggedRouter& router, LogLosses& losses)
      : router_(router), metrics_(finalize_libmoe(router.sums)), losses_(losses) {}

  ordered_json write() {
    for (const analysis::LibMoeMetric& metric : analysis::kLibMoeMetrics) {
      std::visit([&](auto value) { write(metric, value); }, metric.value);
    }
    return std::move(json_);
  }

 private:
  template <typename Value>
  void write(const analysis::LibMoeMetric& metric, Value analysis::LibMoeMetrics::*member) {
    json_[metric.name] = metrics_.*member;
  }

  template <typename Value>
  void write(const analysis::LibMoeMetric& metric, std::optional<Value> analysis::LibMoeMetrics::*member) {
    const std::optional<Value>& value = metrics_.*member;
    if (value) {
      json_[metric.name] = *value;
    } else if (metric.sum && router_.sums.out_of_range(*metric.sum) > 0) {
      ++losses_.not_finite;  // else there was nothing to measure
    }
  }

  void write(const analysis::LibMoeMetric& metric, analysis::LibMoeTokens list) {
    if (list == analysis::LibMoeTokens::kSelected) {
      if (!router_.selected.empty()) json_[metric.name] = router_.selected;
      return;
    }
    const std::vector<float>& margins = router_.margins;
    if (margins.empty()) return;
    if (std::all_of(margins.begin(), margins.end(), [](float margin) { return std::isfinite(margin); })) {
      json_[metric.name] = margins;
    } else {
      ++losses_.not_finite;
    }
  }

  const LoggedRouter& router_;
  const analysis::LibMoeMetrics metrics_;
  LogLosses& losses_;
  ordered_json json_ = ordered_json::object();
};

}  // namespace

void LogEntry::add(const LogPart& part) {
  if (!part.values_only) {
    if (layout_.config().log_forwards == LogForwards::kLast) {
      duration_s_ = 0;
      routers_.clear();
      attention_.clear();
      values_.clear();
    }
    duration_s_ += part.duration_s;
    add_shared(part);
  }
  for (const auto& [place, values] : part.custom) {
    auto& known = values_[{place.first.empty() ? layout_.log_component() : place.first, place.second}];
    for (const auto& [name, value] : values) known.insert_or_assign(name, value);
  }
}

void LogEntry::add_shared(const LogPart& shared) {
  for (const LoggedRouter& router : shared.routers) {
    const auto [known, is_new] = routers_.try_emplace(router.layer, router);
    if (!is_new) add_call(known->second, router);
  }
  for (const LoggedAttention& attention : shared.attention) {
    const auto [known, is_new] = attention_.try_emplace(attention.layer, attention.sums);
    if (!is_new) analysis::merge(known->second, attention.sums);
  }
}

void LogEntry::add_values(std::map<size_t, ordered_json>& layers, LogLosses& losses) const {
  for (const auto& [place, values] : values_) {
    const auto target = std::find_if(layers.begin(), layers.end(), [&](const auto& layer) {
      const RunLayer& known = layout_.layers().layers()[layer.first];
      return known.component == place.first && known.layer == place.second;
    });
    for (const auto& [name, value] : values) {
      std::string reason = refusal(name, layout_.config().attention);
      if (reason.empty() && target == layers.end()) {
        reason = "the logged value \"" + name + "\" is left out of the log: layer \"" + place.second +
                 "\" of component \"" + place.first + "\" has no router that ran";
      }
      if (!reason.empty()) {
        ++losses.refused_names[reason];
      } else if (!is_finite(value)) {
        ++losses.not_finite;
      } else {
        target->second[name] = to_json(value);
      }
    }
  }
}

void LogEntry::write_to(ordered_json& entry, LogLosses& losses) const {
  std::map<size_t, ordered_json> layers;
  for (const auto& [layer, router] : routers_) layers[layer] = LayerWriter(router, losses).write();
  add_values(layers, losses);

  // LibMoE's readers need a decimal point here. nlohmann_json writes one also for a whole number: 4.0.
  ordered_json vision = {{keys::kTimeInference.name, duration_s_}};
  for (const size_t layer : layout_.keyed_layers()) {
    if (layers.contains(layer)) vision[*layout_.key(layer)] = layers.at(layer);
  }
  if (!vision.contains(keys::kMmProjector.name)) vision[keys::kMmProjector.name] = ordered_json::object();

  ordered_json means = ordered_json::object();
  for (const analysis::LibMoeMetric& metric : analysis::kLibMoeMetrics) {
    if (!metric.averaged) continue;
    double sum = 0;
    int64_t number = 0;
    for (const size_t layer : layout_.keyed_layers()) {
      if (layout_.layers().layers()[layer].component != layout_.log_component() || !layers.contains(layer)) continue;
      const auto value = layers.at(layer).find(metric.name);
      if (value == layers.at(layer).end()) continue;
      sum += value->get<double>();
      ++number;
    }
    if (number > 0) means[metric.name] = sum / static_cast<double>(number);
  }

  const auto as_requests = [&](ordered_json metrics) {
    ordered_json repeats = ordered_json::array();
    repeats.push_back(std::move(metrics));
    if (layout_.config().libmoe_guide_layout) return repeats;
    ordered_json requests = ordered_json::array();
    requests.push_back(std::move(repeats));
    return requests;
  };
  entry[keys::kLogsMlp.name] = as_requests(std::move(means));
  entry[keys::kLogsVision.name] = as_requests(std::move(vision));
  ordered_json all = ordered_json::object();
  for (const auto& [component, places] : layout_.components()) {
    for (const size_t layer : places) {
      if (layers.contains(layer)) all[component][layout_.layers().layers()[layer].layer] = std::move(layers.at(layer));
    }
  }
  for (const auto& [place, sums] : attention_) {
    const RunLayer& layer = layout_.attention_layers().layers()[place];
    all[layer.component][layer.layer][keys::kAttention.name] = logged_attention_json(sums);
  }
  entry[keys::kLogsMoe.name] = std::move(all);
}

}  // namespace moetap::plugin
