#include "hooks/sites/spec_entry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "hooks/graph/module_path.h"
#include "hooks/graph/near_misses.h"
#include "hooks/points/hook_names.h"
#include "hooks/points/layer_number.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr size_t kMostShown = 5;

std::string without_call_number(const std::string& name) {
  return name.substr(0, name.find('#'));
}

template <typename Found>
std::vector<std::string> owners(const std::vector<Found>& all) {
  std::vector<std::string> names;
  for (const Found& one : all) names.push_back(one.owner);
  return names;
}

}  // namespace

bool SpecPlace::holds(const FoundHook& found, const jit::Node* anchor) const {
  if (call == nullptr) return without_call_number(found.owner) == path;
  const int64_t order = graph().order(anchor);
  if (call->first <= order && order < call->last) return true;
  return only_call && (found.owner == path || found.owner.starts_with(path + "."));
}

SpecEntry::SpecEntry(const HookSpec& spec, size_t place)
    : said_(spec.entries[place]),
      where_(fmt::format("{}: entry {}", spec.source, place)),
      pattern_(checked_regex(said_.module, where_ + ": module")) {}

void SpecEntry::fail(const std::string& what) const {
  throw HookSpecError(where_ + ": " + what);
}

std::vector<SpecPlace> SpecEntry::places(std::vector<MethodSites>& all) const {
  std::vector<SpecPlace> places;
  std::vector<std::string> paths, methods;
  for (MethodSites& sites : all) {
    methods.push_back(sites.graph->entry());
    if (said_.method.has_value() && *said_.method != sites.graph->entry()) continue;
    std::map<std::string, std::vector<SpecPlace>> by_path;
    std::vector<std::string> in_order;
    for (const ModuleCall& call : sites.graph->calls()) {
      const std::string path = sites.graph->path_from_model(call.path);
      paths.push_back(path);
      auto& calls = by_path[path];
      // A module's own methods that it calls itself are part of that call.
      if (!calls.empty() && call.last <= calls.back().call->last) continue;
      if (calls.empty()) in_order.push_back(path);
      calls.push_back({&sites, &call, path, {}});
    }
    for (const std::string& owner : owners_of(sites, said_.kind)) {
      const std::string path = without_call_number(owner);
      paths.push_back(path);
      if (by_path.count(path)) continue;
      by_path[path].push_back({&sites, nullptr, path, {}});
      in_order.push_back(path);
    }
    for (const auto& path : in_order) match(path, by_path[path], places);
  }
  if (said_.method.has_value() && std::find(methods.begin(), methods.end(), *said_.method) == methods.end()) {
    fail(fmt::format("method \"{}\" is not recorded; it must be one of {}", *said_.method, fmt::join(methods, ", ")));
  }
  if (!places.empty()) return places;
  std::erase(paths, "");
  fail(fmt::format("module \"{}\" matches the whole path of nothing that is called; {}", said_.module,
                   paths.empty()
                       ? "no submodule is (a frozen model, or one traced as a function): \"\" is the model itself"
                       : fmt::format("the nearest: {}", fmt::join(nearest(said_.module, paths, kMostShown), ", "))));
}

void SpecEntry::match(const std::string& path, std::vector<SpecPlace>& calls, std::vector<SpecPlace>& places) const {
  std::smatch match;
  if (!std::regex_match(path, match, pattern_)) return;
  size_t first = 0, last = calls.size();
  if (said_.call.has_value()) {
    const int64_t size = static_cast<int64_t>(calls.size());
    const int64_t call = *said_.call < 0 ? *said_.call + size : *said_.call;
    if (call < 0 || call >= size) {
      fail(fmt::format("call {} of {} does not exist: method {} calls it {} times", *said_.call, calls[0].printed(),
                       calls[0].graph().entry(), size));
    }
    first = static_cast<size_t>(call);
    last = first + 1;
  }
  for (size_t i = first; i < last; ++i) {
    SpecPlace place = calls[i];
    place.only_call = calls.size() == 1;
    for (const auto& group : match) place.groups.push_back(group.str());
    places.push_back(std::move(place));
  }
}

// $1 is what the first group of `module` matched.
std::string SpecEntry::expanded(const std::string& text, const SpecPlace& place) const {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool group = text[i] == '$' && i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
    if (!group) {
      result += text[i];
      continue;
    }
    const size_t number = static_cast<size_t>(text[++i] - '0');
    if (number >= place.groups.size()) {
      fail(fmt::format("\"{}\": module \"{}\" has no group {}", text, said_.module, number));
    }
    result += place.groups[number];
  }
  return result;
}

jit::Value* SpecEntry::value(const ValueReference& reference, const SpecPlace& place, const char* role,
                             ValueType type) const {
  ValueReference named = reference;
  named.target = expanded(reference.target, place);
  return resolve(named, place.graph(), *place.call, fmt::format("{}: {} in {}", where_, role, place.printed()), type);
}

void SpecEntry::describe(FoundHook& found, const SpecPlace& place) const {
  if (said_.name.has_value()) {
    found.owner = expanded(*said_.name, place);
    if (found.owner.empty()) fail("name must not be empty");
  }
  if (said_.component.has_value()) {
    found.component = expanded(*said_.component, place);
    if (!is_component_name(found.component)) {
      fail(fmt::format("component must be letters, digits, _ and - (it names files), got \"{}\"", found.component));
    }
  }
  if (said_.layer.has_value()) found.layer = layer_id(expanded(*said_.layer, place));
}

std::string SpecEntry::layer_id(const std::string& text) const {
  if (!is_layer_id(text)) {
    fail(fmt::format("layer must be decimal digits or mm_projector, got \"{}\"", text));
  }
  return is_number(text) ? without_leading_zeros(text) : text;
}

void SpecEntry::check_is_call(const SpecPlace& place) const {
  if (place.call != nullptr) return;
  fail(
      fmt::format("{} is the name of a hook, and no module of this path is called: to name values, match the module "
                  "that computes them",
                  place.printed()));
}

void SpecEntry::check_visible(const std::vector<jit::Value*>& values, const jit::Node* last,
                              const SpecPlace& place) const {
  for (const jit::Value* value : values) {
    if (value == nullptr || visible_from(value, last)) continue;
    fail(fmt::format("in {}, %{} of \"{}\" is computed in a branch, loop or fork that \"{}\" does not see",
                     place.printed(), value->debugName(), printed(value->node()), printed(last)));
  }
}

void SpecEntry::fail_for_several(const std::vector<std::string>& owners, const SpecPlace& place,
                                 const char* kind) const {
  fail(fmt::format("{} holds {} {} ({}): match the module of one to name its values", place.printed(), owners.size(),
                   kind, fmt::join(owners, ", ")));
}

std::vector<std::string> owners_of(const MethodSites& sites, HookKind kind) {
  return kind == HookKind::kRouter ? owners(sites.routers) : owners(sites.attentions);
}

}  // namespace moetap::hooks
