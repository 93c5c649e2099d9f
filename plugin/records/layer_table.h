#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "hooks/graph/module_path.h"
#include "hooks/points/hook_names.h"
#include "plugin/records/model_description.h"

namespace moetap::plugin {

// Layer ids are the same in a run as in discovery.
using hooks::is_layer_id;
using hooks::is_number;

/// A router, or an attention layer, as the files of a run know it.
struct RunLayer {
  std::string model;  // ModelDescription::identity
  std::string component;
  std::string layer;   // id, unique in the component over all models and methods of the run
  std::string wanted;  // the id that discovery gave it
  std::string name;    // path of the module
  std::string scoring;
  int64_t num_experts = 0;  // 0: never seen running, and not fixed by the graph; attention
  std::optional<int64_t> top_k;
  std::string implementation;  // of attention
};

/// Gives each hook of one kind, of the run's models and methods, its layer. A router that is found in two methods of a
/// model, or in two of its twins, is one layer, if component, name and number of experts are the same. Routers of
/// different models are different layers. Layer ids are unique only within a method, so different routers may want the
/// same id: the first that reports gets it, each later one gets the number after the component's largest. So the same
/// records give the same table.
///
/// The tables of two kinds stand beside each other: hooks of one layer of a model get the same number in both.
class LayerTable {
 public:
  explicit LayerTable(hooks::HookKind kind = hooks::HookKind::kRouter) : kind_(kind) {}

  /// The place in `layers()` of a hook that reported with `num_experts` experts; adds the layer if it is new.
  /// `beside`: the table of the other kind; null: there is none.
  size_t place(const ModelDescription& model, int64_t hook, int64_t num_experts, const LayerTable* beside = nullptr);

  /// Adds the hooks of a method that never reported, such as those in an arm that was never taken.
  void add_silent(const ModelDescription& model, const std::string& method, const LayerTable* beside = nullptr);

  /// The place of a hook that reported. Throws std::out_of_range if it never did.
  size_t at(const std::string& instance, int64_t hook) const;

  /// The same; empty if the hook never reported.
  std::optional<size_t> find(const std::string& instance, int64_t hook) const;

  const std::vector<RunLayer>& layers() const { return layers_; }

  /// Which hook reports into which layer. `placements()` is in the order of the hooks' first reports.
  struct Placement {
    std::string instance;
    int64_t hook = 0;
    size_t place = 0;
  };
  const std::vector<Placement>& placements() const { return placements_; }

  /// The places of each component's layers, ordered by `layer_id_less`.
  std::map<std::string, std::vector<size_t>> by_component() const;

 private:
  size_t add(const ModelDescription& model, const hooks::HookPoint& hook, int64_t num_experts,
             const LayerTable* beside);
  bool is_taken(const std::string& component, const std::string& id) const;
  /// The number of a model's layer; empty: none of its hooks is here.
  std::string number_of(const ModelDescription& model, const hooks::HookPoint& hook) const;
  /// The component's largest number, or `largest` if that is larger.
  std::string largest_number(const std::string& component, std::string largest) const;

  hooks::HookKind kind_;
  std::vector<RunLayer> layers_;
  std::vector<Placement> placements_;
  std::set<std::tuple<size_t, std::string, std::string>> users_;  // (layer, instance, method)
  std::map<std::string, std::vector<std::optional<size_t>>>
      places_of_hooks_;  // by instance, by hook; empty: never reported
};

/// The order of layer ids, true if `a` comes before `b`: numbers first, by value; then all other ids, as text.
bool layer_id_less(const std::string& a, const std::string& b);

}  // namespace moetap::plugin
