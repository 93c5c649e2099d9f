#include "plugin/records/layer_table.h"

#include <algorithm>
#include <stdexcept>

#include "hooks/points/layer_number.h"

namespace moetap::plugin {

bool layer_id_less(const std::string& a, const std::string& b) {
  if (is_number(a) != is_number(b)) return is_number(a);
  if (!is_number(a)) return a < b;
  const std::string x = hooks::without_leading_zeros(a), y = hooks::without_leading_zeros(b);
  return x == y ? a < b : hooks::is_smaller_number(x, y);
}

size_t LayerTable::place(const ModelDescription& model, int64_t hook, int64_t num_experts, const LayerTable* beside) {
  const hooks::HookPoint& point = model.hooks.at(static_cast<size_t>(hook));
  auto& places = places_of_hooks_[model.instance];
  places.resize(std::max(places.size(), model.hooks.size()));
  std::optional<size_t>& place = places[static_cast<size_t>(hook)];
  if (!place) {
    place = add(model, point, num_experts, beside);
    placements_.push_back({model.instance, hook, *place});
  }
  return *place;
}

std::optional<size_t> LayerTable::find(const std::string& instance, int64_t hook) const {
  const auto places = places_of_hooks_.find(instance);
  const auto index = static_cast<size_t>(hook);
  return places == places_of_hooks_.end() || index >= places->second.size() ? std::nullopt : places->second[index];
}

size_t LayerTable::at(const std::string& instance, int64_t hook) const {
  const std::optional<size_t> place = find(instance, hook);
  if (!place) throw std::out_of_range("hook " + std::to_string(hook) + " never reported");
  return *place;
}

void LayerTable::add_silent(const ModelDescription& model, const std::string& method, const LayerTable* beside) {
  for (const hooks::HookPoint& hook : model.hooks) {
    if (hook.kind == kind_ && hook.method == method && !find(model.instance, hook.id)) {
      const auto same = std::find_if(layers_.begin(), layers_.end(), [&](const RunLayer& layer) {
        return layer.model == model.identity && layer.component == hook.component && layer.name == hook.name;
      });
      if (same == layers_.end()) add(model, hook, hook.num_experts.value_or(0), beside);
    }
  }
}

bool LayerTable::is_taken(const std::string& component, const std::string& id) const {
  return std::any_of(layers_.begin(), layers_.end(),
                     [&](const RunLayer& layer) { return layer.component == component && layer.layer == id; });
}

std::string LayerTable::number_of(const ModelDescription& model, const hooks::HookPoint& hook) const {
  const auto found = std::find_if(layers_.begin(), layers_.end(), [&](const RunLayer& layer) {
    return layer.model == model.identity && layer.component == hook.component && layer.wanted == hook.layer;
  });
  return found == layers_.end() ? "" : found->layer;
}

std::string LayerTable::largest_number(const std::string& component, std::string largest) const {
  for (const RunLayer& layer : layers_) {
    if (layer.component != component || !is_number(layer.layer)) continue;
    if (largest.empty() || layer_id_less(largest, layer.layer)) largest = layer.layer;
  }
  return largest;
}

size_t LayerTable::add(const ModelDescription& model, const hooks::HookPoint& hook, int64_t num_experts,
                       const LayerTable* beside) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const RunLayer& layer = layers_[i];
    // Two hooks of one method are two layers, whatever their names.
    if (layer.component == hook.component && layer.model == model.identity && layer.name == hook.name &&
        layer.num_experts == num_experts && users_.emplace(i, model.instance, hook.method).second) {
      return i;
    }
  }
  std::string id = beside != nullptr ? beside->number_of(model, hook) : "";
  if (id.empty() || is_taken(hook.component, id)) id = hook.layer;
  if (is_taken(hook.component, id)) {
    std::string largest = largest_number(hook.component, "");
    if (beside != nullptr) largest = beside->largest_number(hook.component, largest);
    id = largest.empty() ? "0" : hooks::next_number(hooks::without_leading_zeros(largest));
  }
  layers_.push_back({model.identity, hook.component, id, hook.layer, hook.name, hook.scoring, num_experts, hook.top_k,
                     hook.implementation});
  users_.emplace(layers_.size() - 1, model.instance, hook.method);
  return layers_.size() - 1;
}

std::map<std::string, std::vector<size_t>> LayerTable::by_component() const {
  std::map<std::string, std::vector<size_t>> places;
  for (size_t i = 0; i < layers_.size(); ++i) places[layers_[i].component].push_back(i);
  for (auto& [component, of_component] : places) {
    std::stable_sort(of_component.begin(), of_component.end(),
                     [&](size_t a, size_t b) { return layer_id_less(layers_[a].layer, layers_[b].layer); });
  }
  return places;
}

}  // namespace moetap::plugin
