#include "plugin/results/log_layout.h"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "plugin/results/json_keys.h"

namespace moetap::plugin {
namespace {

// Where the configuration names no component, the log's component is the first of these that has routers.
constexpr const char* kPreferredComponents[] = {"vision_tower", "language_model", "decoder"};

// LibMoE's readers want layers 0 to 9 of every sample.
constexpr int kNumExpectedLayers = 10;

}  // namespace

LogLayout::LogLayout(const Config& config, const RunLayers& layers)
    : config_(config),
      layers_(layers.routers),
      attention_layers_(layers.attention),
      components_(layers_.by_component()),
      log_component_(choose_component()) {
  keys_.resize(layers_.layers().size());
  if (components_.contains(log_component_) && log_component_ != keys::kMmProjector.name) {
    for (const size_t layer : components_.at(log_component_)) {
      const std::string& id = layers_.layers()[layer].layer;
      if (config.renumber_layers) {
        keys_[layer] = std::to_string(keyed_layers_.size());
      } else if (is_number(id)) {
        keys_[layer] = id;
      } else {
        continue;
      }
      keyed_layers_.push_back(layer);
    }
  }
  const auto projector = components_.find(keys::kMmProjector.name);
  if (projector != components_.end()) {
    // The key mm_projector has room for one router: the one whose layer id is the component's name, else the first.
    const auto& places = projector->second;
    const auto named = std::find_if(places.begin(), places.end(), [&](size_t layer) {
      return layers_.layers()[layer].layer == keys::kMmProjector.name;
    });
    const size_t layer = named == places.end() ? places.front() : *named;
    keys_[layer] = keys::kMmProjector.name;
    keyed_layers_.push_back(layer);
  }
}

std::string LogLayout::choose_component() const {
  if (components_.empty()) return config_.log_component;
  if (!config_.log_component.empty()) {
    if (components_.contains(config_.log_component)) return config_.log_component;
    std::string names;
    for (const auto& [name, layers] : components_) names += (names.empty() ? "" : ", ") + name;
    throw std::runtime_error("log_component \"" + config_.log_component +
                             "\" has no routers in this run; those with routers: " + names);
  }
  for (const char* preferred : kPreferredComponents) {
    if (components_.contains(preferred)) return preferred;
  }
  for (const auto& [name, layers] : components_) {
    if (name != keys::kMmProjector.name) return name;
  }
  return keys::kMmProjector.name;
}

std::string LogLayout::readers_notice() const {
  std::set<std::string> present;
  for (const size_t layer : keyed_layers_) present.insert(*keys_[layer]);
  std::string missing;
  for (int i = 0; i < kNumExpectedLayers; ++i) {
    if (!present.contains(std::to_string(i))) missing += (missing.empty() ? "" : ", ") + std::to_string(i);
  }
  if (missing.empty()) return "";
  const bool gaps = !config_.renumber_layers && keyed_layers_.size() >= kNumExpectedLayers;
  return config_.task + ".json has no layers " + missing +
         ": several of LibMoE's readers drop every sample without layers 0 to 9" +
         (gaps ? " (renumber_layers numbers the MoE layers from 0)" : "");
}

}  // namespace moetap::plugin
