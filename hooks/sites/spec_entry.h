#pragma once

#include <algorithm>
#include <cstdint>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "hooks/points/found_hook.h"
#include "hooks/points/hook_spec.h"
#include "hooks/sites/model_sites.h"
#include "hooks/sites/value_reference.h"

namespace moetap::hooks {

/// Where an entry of a hook spec applies: a call of a module, or a hook by its name alone.
struct SpecPlace {
  MethodSites* sites = nullptr;
  const ModuleCall* call = nullptr;  // null: no call of a module has this path, but a hook has
  std::string path;                  // from the model
  std::vector<std::string> groups;   // what the groups of the regular expression matched, the whole first
  bool only_call = true;             // the module is called once in the method

  const MethodGraph& graph() const { return *sites->graph; }
  std::string printed() const { return path.empty() ? "the model itself" : path; }
  /// Whether a hook that was found lies in the place.
  bool holds(const FoundHook& found, const torch::jit::Node* anchor) const;
};

/// One entry of a hook spec: what is the same for all kinds of hooks.
class SpecEntry {
 public:
  /// The entry at a place of the spec, which must outlive this object.
  SpecEntry(const HookSpec& spec, size_t place);

  const HookSpecEntry& said() const { return said_; }

  /// Throws HookSpecError, one line that begins with the spec and the entry.
  [[noreturn]] void fail(const std::string& what) const;

  /// All places that the entry matches: at least one.
  std::vector<SpecPlace> places(std::vector<MethodSites>& methods) const;

  /// The value that a reference names in a place; `role` names it in messages.
  torch::jit::Value* value(const ValueReference& reference, const SpecPlace& place, const char* role,
                           ValueType type = ValueType::kTensor) const;

  /// Gives a hook the name, layer and component that the entry says.
  void describe(FoundHook& found, const SpecPlace& place) const;

  /// Throws HookSpecError unless a module is called in the place, in which values can be looked for.
  void check_is_call(const SpecPlace& place) const;

  /// Throws HookSpecError unless all values can be read behind `last`, which makes one of them.
  void check_visible(const std::vector<torch::jit::Value*>& values, const torch::jit::Node* last,
                     const SpecPlace& place) const;

  /// The one hook among `all` that lies in the place; null if there is none. Throws HookSpecError for several; `kind`
  /// names them: "routers".
  template <typename Found>
  Found* only_one(std::vector<Found>& all, const SpecPlace& place, const char* kind) const {
    Found* found = nullptr;
    std::vector<std::string> owners;
    for (Found& one : all) {
      if (!place.holds(one, one.anchor())) continue;
      found = &one;
      owners.push_back(one.owner);
    }
    if (owners.size() > 1) fail_for_several(owners, place, kind);
    return found;
  }

 private:
  void match(const std::string& path, std::vector<SpecPlace>& calls, std::vector<SpecPlace>& places) const;
  std::string expanded(const std::string& text, const SpecPlace& place) const;
  std::string layer_id(const std::string& text) const;
  [[noreturn]] void fail_for_several(const std::vector<std::string>& owners, const SpecPlace& place,
                                     const char* kind) const;

  const HookSpecEntry& said_;
  std::string where_;
  std::regex pattern_;
};

/// The owners of the hooks of a kind that were found in a method.
std::vector<std::string> owners_of(const MethodSites& sites, HookKind kind);

/// Puts a hook that a spec names to those that were found, in order of execution; `place` is that of the one that it
/// changes, or null.
template <typename Found>
void put(std::vector<Found>& all, Found* place, Found hook, const MethodGraph& graph) {
  if (place != nullptr)
    *place = std::move(hook);
  else
    all.push_back(std::move(hook));
  std::stable_sort(all.begin(), all.end(),
                   [&](const Found& a, const Found& b) { return graph.order(a.anchor()) < graph.order(b.anchor()); });
}

}  // namespace moetap::hooks
