#include "hooks/sites/spec_sites.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "hooks/graph/near_misses.h"
#include "hooks/sites/spec_attention.h"
#include "hooks/sites/spec_entry.h"
#include "hooks/sites/spec_router.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr size_t kMostShown = 5;

const jit::Node* shown(const FoundRouter& router) {
  return router.picks.empty() ? router.anchor() : router.picks.back();
}

const jit::Node* shown(const FoundAttention& attention) {
  return attention.anchor();
}

// Takes the hooks in a place out of those that were found; how many.
template <typename Found>
size_t skip(std::vector<Found>& all, const SpecEntry& entry, const SpecPlace& place) {
  return std::erase_if(all, [&](const Found& found) {
    if (!place.holds(found, found.anchor())) return false;
    place.sites->skipped.push_back({shown(found), found.anchor(), SkipReason::kSkippedByHookSpec, entry.said().kind});
    return true;
  });
}

// Gives the hooks in a place what the entry says of them; how many.
template <typename Found>
size_t change(std::vector<Found>& all, const SpecEntry& entry, const SpecPlace& place) {
  size_t changed = 0;
  for (Found& found : all) {
    if (!place.holds(found, found.anchor())) continue;
    describe(found, entry, place);
    ++changed;
  }
  return changed;
}

template <typename Found>
size_t skip_or_change(std::vector<Found>& all, const SpecEntry& entry, const SpecPlace& place) {
  return entry.said().skip ? skip(all, entry, place) : change(all, entry, place);
}

// Applies an entry to the hooks of its kind in a place; to how many. What is particular to a kind: one line each.
size_t apply(const SpecEntry& entry, const SpecPlace& place) {
  if (entry.said().names_values()) {
    entry.said().kind == HookKind::kRouter ? name_router(entry, place) : name_attention(entry, place);
    return 1;
  }
  return entry.said().kind == HookKind::kRouter ? skip_or_change(place.sites->routers, entry, place)
                                                : skip_or_change(place.sites->attentions, entry, place);
}

struct Words {
  const char *one, *what_was_found, *to_name;
};

Words words_of(HookKind kind) {
  if (kind == HookKind::kRouter) return {"router", "routers were", "what is selected"};
  return {"attention", "attention was", "query and key, or the probabilities"};
}

[[noreturn]] void fail_for_none(const SpecEntry& entry, const SpecPlace& place,
                                const std::vector<MethodSites>& methods) {
  const HookSpecEntry& said = entry.said();
  const Words words = words_of(said.kind);
  std::vector<std::string> owners;
  for (const auto& sites : methods) {
    const auto of_method = owners_of(sites, said.kind);
    owners.insert(owners.end(), of_method.begin(), of_method.end());
  }
  const std::string there = owners.empty() ? "none was found in the model"
                                           : fmt::format("{} found at: {}", words.what_was_found,
                                                         fmt::join(nearest(said.module, owners, kMostShown), ", "));
  entry.fail(fmt::format("module \"{}\" matches {}, where no {} was found; {}{}", said.module, place.printed(),
                         words.one, there,
                         said.skip ? "" : fmt::format("; to name one by hand, say {}", words.to_name)));
}

}  // namespace

void apply_hook_spec(const HookSpec& spec, std::vector<MethodSites>& methods) {
  for (size_t i = 0; i < spec.entries.size(); ++i) {
    const SpecEntry entry(spec, i);
    const auto places = entry.places(methods);
    size_t num_hooks = 0;
    for (const SpecPlace& place : places) num_hooks += apply(entry, place);
    if (num_hooks == 0) fail_for_none(entry, places[0], methods);
  }
}

}  // namespace moetap::hooks
