#include "plugin/records/layer_table.h"

#include <algorithm>

namespace moetap::plugin {
namespace {

// The number after one of any length, as layer ids may be.
std::string next_number(std::string digits) {
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));
  for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit) {
    if (*digit != '9') {
      ++*digit;
      return digits;
    }
    *digit = '0';
  }
  digits.insert(digits.begin(), '1');
  return digits;
}

}  // namespace

bool layer_id_less(const std::string& a, const std::string& b) {
  const auto rank = [](const std::string& id) {
    const size_t first = is_number(id) ? std::min(id.find_first_not_of('0'), id.size()) : 0;
    const std::string digits = id.substr(first);
    return std::tuple(!is_number(id), is_number(id) ? digits.size() : 0, digits, id);
  };
  return rank(a) < rank(b);
}

size_t LayerTable::place(const ModelDescription& model, int64_t hook, int64_t num_experts) {
  const auto [known, is_new] = place_of_hook_.try_emplace({model.instance, hook}, 0);
  if (is_new) {
    known->second = add(model, model.hooks.at(static_cast<size_t>(hook)), num_experts);
    placements_.push_back({model.instance, hook, known->second});
  }
  return known->second;
}

std::optional<size_t> LayerTable::find(const std::string& instance, int64_t hook) const {
  const auto known = place_of_hook_.find({instance, hook});
  return known == place_of_hook_.end() ? std::nullopt : std::optional(known->second);
}

void LayerTable::add_silent(const ModelDescription& model, const std::string& method) {
  for (const hooks::HookPoint& hook : model.hooks) {
    if (hook.kind == hooks::HookKind::kRouter && hook.method == method &&
        !place_of_hook_.contains({model.instance, hook.id})) {
      const auto same = std::find_if(layers_.begin(), layers_.end(), [&](const RunLayer& layer) {
        return layer.model == model.identity && layer.component == hook.component && layer.name == hook.name;
      });
      if (same == layers_.end()) add(model, hook, hook.num_experts.value_or(0));
    }
  }
}

size_t LayerTable::add(const ModelDescription& model, const hooks::HookPoint& hook, int64_t num_experts) {
  std::string id = hook.layer;
  bool taken = false;
  std::string largest;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const RunLayer& layer = layers_[i];
    if (layer.component != hook.component) continue;
    // Two hooks of one method are two layers, whatever their names.
    if (layer.model == model.identity && layer.name == hook.name && layer.num_experts == num_experts &&
        users_.emplace(i, model.instance, hook.method).second) {
      return i;
    }
    taken = taken || layer.layer == id;
    if (is_number(layer.layer) && (largest.empty() || layer_id_less(largest, layer.layer))) largest = layer.layer;
  }
  if (taken) id = largest.empty() ? "0" : next_number(largest);
  layers_.push_back({model.identity, hook.component, id, hook.name, hook.scoring, num_experts, hook.top_k});
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
