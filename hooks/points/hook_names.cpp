#include "hooks/points/hook_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "hooks/graph/module_path.h"
#include "hooks/points/hook_spec.h"
#include "hooks/points/layer_number.h"

namespace moetap::hooks {

namespace {

std::vector<std::string> elements_before_layer(const std::string& name) {
  auto elements = path_elements(name);
  elements.erase(std::find_if(elements.begin(), elements.end(), is_number), elements.end());
  return elements;
}

bool any_contains(const std::vector<std::string>& elements, std::initializer_list<const char*> words) {
  for (std::string element : elements) {
    std::transform(element.begin(), element.end(), element.begin(), [](unsigned char c) { return std::tolower(c); });
    for (const char* word : words) {
      if (element.find(word) != std::string::npos) return true;
    }
  }
  return false;
}

bool has_element(const std::string& name, const char* element) {
  const auto elements = elements_before_layer(name);
  return std::find(elements.begin(), elements.end(), element) != elements.end();
}

std::string component_of(const HookPoint& hook, const std::set<HookKind>& split_kinds) {
  const auto elements = elements_before_layer(hook.name);
  if (any_contains(elements, {"vis", "vit", "image", "clip", "siglip"})) return "vision_tower";
  if (any_contains(elements, {"audio", "speech", "whisper"})) return "audio_tower";
  if (any_contains(elements, {"projector", "connector", "merger", "resampler"})) return "mm_projector";
  if (split_kinds.count(hook.kind)) {
    if (has_element(hook.name, "encoder")) return "encoder";
    if (has_element(hook.name, "decoder")) return "decoder";
  }
  return "language_model";
}

std::string natural_layer(const HookPoint& hook) {
  if (hook.name.find('#') != std::string::npos) return "";  // a later call of the same module
  for (const auto& element : path_elements(hook.name)) {
    if (is_number(element)) return without_leading_zeros(element);
  }
  return hook.component == "mm_projector" ? "mm_projector" : "";
}

}  // namespace

bool is_component_name(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

bool is_layer_id(const std::string& text) {
  return text == "mm_projector" || is_number(text);
}

void name_hooks(std::vector<HookPoint>& hooks) {
  std::map<std::tuple<std::string, HookKind, std::string>, int> calls;
  for (auto& hook : hooks) {
    const int call = calls[{hook.method, hook.kind, hook.name}]++;
    if (call > 0) hook.name += fmt::format("#{}", call);
  }
  std::set<HookKind> under_encoder, split_kinds;  // split: kinds found under `encoder` and under `decoder`
  for (const auto& hook : hooks) {
    if (has_element(hook.name, "encoder")) under_encoder.insert(hook.kind);
  }
  for (const auto& hook : hooks) {
    if (has_element(hook.name, "decoder") && under_encoder.count(hook.kind)) split_kinds.insert(hook.kind);
  }
  for (auto& hook : hooks) {
    if (hook.component.empty()) hook.component = component_of(hook, split_kinds);
  }

  std::map<std::tuple<std::string, std::string, HookKind>, std::vector<HookPoint*>> groups;
  for (auto& hook : hooks) groups[{hook.method, hook.component, hook.kind}].push_back(&hook);
  for (auto& [key, members] : groups) {
    std::set<std::string> taken;
    std::string next = "0";  // above all numbers that are taken
    auto take = [&](HookPoint* hook, const std::string& layer) {
      if (!taken.insert(layer).second) return false;
      hook->layer = layer;
      if (is_number(layer) && !is_smaller_number(layer, next)) next = next_number(layer);
      return true;
    };
    for (HookPoint* hook : members) {
      if (hook->layer.empty()) continue;
      if (is_number(hook->layer)) hook->layer = without_leading_zeros(hook->layer);
      if (take(hook, hook->layer)) continue;
      throw HookSpecError(fmt::format("the hook spec gives layer {} of {} to two hooks of method {}; {} is one of them",
                                      hook->layer, hook->component, hook->method, hook->name));
    }
    for (HookPoint* hook : members) {
      if (!hook->layer.empty()) continue;
      if (const std::string layer = natural_layer(*hook); !layer.empty()) take(hook, layer);
    }
    for (HookPoint* hook : members) {
      if (hook->layer.empty()) take(hook, next);
    }
  }
}

}  // namespace moetap::hooks
