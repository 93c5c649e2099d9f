#include "hooks/sites/model_sites.h"

#include <fmt/format.h>

#include <algorithm>

#include "hooks/attention/find_attention.h"
#include "hooks/graph/entry_methods.h"
#include "hooks/graph/value_origins.h"
#include "hooks/points/hook_names.h"
#include "hooks/routers/find_routers.h"
#include "hooks/routers/scaled_scores.h"
#include "hooks/sites/spec_sites.h"
#include "hooks/tokens/token_layouts.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// What is particular to a kind: one line each here and in `list_sites`.
void find_kinds(MethodSites& sites, HookKinds kinds) {
  const ValueOrigins origins(*sites.graph);
  sites.routers = find_routers(*sites.graph, origins, sites.skipped);
  if (kinds == HookKinds::kRouters) return;
  sites.attentions = find_attention(*sites.graph, origins, sites.skipped);
}

// A frozen model has lost its paths: the name says that only the order is known.
template <typename Found>
void name_by_order(std::vector<Found>& found, int64_t& unnamed) {
  for (Found& one : found) {
    if (one.owner.empty()) one.owner = "order." + std::to_string(unnamed++);
  }
}

template <typename Found>
void add_sites(const std::vector<Found>& found, MethodSites& sites) {
  for (size_t i = 0; i < found.size(); ++i) {
    sites.sites.push_back({hook_point(found[i], sites.graph->entry()), found[i].anchor(), i});
  }
}

// What the rows of a router are, from the tensor that shows them in the run (see to_canonical).
TokenLayout router_tokens(const FoundRouter& router, const TokenLayouts& layouts) {
  TokenLayout layout;
  if (router.logits != nullptr) layout = layouts.of(router.logits, router.logits_dim);
  if (router.scores != nullptr) {
    TokenLayout of_scores = layouts.of(router.scores, router.scores_dim);
    const bool both = layout.known && of_scores.known;
    if (both && (layout.dims != of_scores.dims || layout.packed != of_scores.packed)) return {};
    if (!layout.known) layout = std::move(of_scores);
  }
  if (layout.known || router.selected.empty() || router.form == "expert_choice") return layout;
  const bool has_slots = router.selected.size() == 1 && !router.add_slot_dim;
  return layouts.of(router.selected[0], has_slots ? std::optional(router.expert_dim) : std::nullopt);
}

void list_sites(MethodSites& sites) {
  add_sites(sites.routers, sites);
  add_sites(sites.attentions, sites);
  if (!sites.routers.empty()) {
    const ValueOrigins origins(*sites.graph);
    const TokenLayouts layouts(*sites.graph, origins);
    for (Site& site : sites.sites) {
      if (site.hook.kind != HookKind::kRouter) continue;
      const FoundRouter& router = sites.routers[site.place];
      site.hook.tokens = router_tokens(router, layouts);
      site.hook.scores_are_plain = scores_are_plain(*sites.graph, router);
      const ScaledWeights weights = scaled_weights(*sites.graph, router);
      site.hook.weights_are_scaled_scores = weights.are_scaled_scores;
      site.hook.weights_have_factors_of_experts = weights.have_factors_of_experts;
    }
  }
  auto order = [&](const jit::Node* node) { return sites.graph->order(node); };
  std::stable_sort(sites.sites.begin(), sites.sites.end(),
                   [&](const Site& a, const Site& b) { return order(a.anchor) < order(b.anchor); });
  std::stable_sort(sites.skipped.begin(), sites.skipped.end(),
                   [&](const SkippedNode& a, const SkippedNode& b) { return order(a.node) < order(b.node); });
}

// Why the hooks of a submodule's method cannot be recorded.
SkippedSite shared_class(const EntryMethod& entry) {
  const size_t more = entry.class_sharers.size() - 1;
  return {entry.name(), fmt::format("{} {}{}: what is recorded in its code does not tell which of them the host called",
                                    entry.class_sharers[0], to_string(SkipReason::kSharesClass),
                                    more == 0 ? "" : fmt::format(" (and {} more)", more))};
}

}  // namespace

ModelSites find_sites(const jit::Module& module, const std::vector<std::string>& methods, const HookSpec& spec,
                      HookKinds kinds) {
  ModelSites model;
  std::vector<SkippedSite> shared;
  int64_t unnamed_routers = 0, unnamed_attentions = 0;
  const bool plain = spec.empty() && kinds == HookKinds::kRouters;
  const auto calls = plain ? CallsOfModules::kForgotten : CallsOfModules::kKept;
  for (const auto& entry : entry_methods(module, methods)) {
    MethodSites sites;
    sites.graph = std::make_unique<MethodGraph>(entry.module, entry.method, entry.path, calls);
    find_kinds(sites, spec.names(HookKind::kAttention) ? HookKinds::kRoutersAndAttention : kinds);
    name_by_order(sites.routers, unnamed_routers);
    name_by_order(sites.attentions, unnamed_attentions);
    const bool one_of_several = !entry.path.empty() && !entry.class_sharers.empty();
    if (one_of_several) {
      if (sites.routers.empty() && sites.attentions.empty()) continue;
      shared.push_back(shared_class(entry));
      if (std::find(methods.begin(), methods.end(), entry.name()) != methods.end()) {
        throw MethodError(fmt::format("method {} cannot be recorded: {}", entry.name(), shared.back().reason));
      }
      continue;
    }
    model.methods.push_back(std::move(sites));
  }
  if (!spec.empty()) apply_hook_spec(spec, model.methods);
  // A spec that names attention is checked as a whole, also where attention is not recorded.
  if (kinds == HookKinds::kRouters) {
    for (MethodSites& sites : model.methods) {
      sites.attentions.clear();
      std::erase_if(sites.skipped, [](const SkippedNode& node) { return node.kind() == HookKind::kAttention; });
    }
  }

  std::vector<HookPoint>& hooks = model.discovery.hooks;
  for (MethodSites& sites : model.methods) {
    list_sites(sites);
    for (const Site& site : sites.sites) hooks.push_back(site.hook);
    for (const SkippedNode& skipped : sites.skipped) {
      model.discovery.skipped.push_back({printed(skipped.node), to_string(skipped.reason), skipped.kind()});
    }
  }
  model.discovery.skipped.insert(model.discovery.skipped.end(), shared.begin(), shared.end());
  for (size_t i = 0; i < hooks.size(); ++i) hooks[i].id = static_cast<int64_t>(i);
  name_hooks(hooks);
  size_t next = 0;
  for (MethodSites& sites : model.methods) {
    for (Site& site : sites.sites) site.hook = hooks[next++];
  }
  return model;
}

}  // namespace moetap::hooks
