#include "hooks/sites/spec_router.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "hooks/graph/known_shapes.h"
#include "hooks/graph/op_traits.h"
#include "hooks/routers/selection_source.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

void fill(FoundRouter& router, const SpecEntry& entry, const SpecPlace& place) {
  const HookSpecEntry& said = entry.said();
  if (said.logits.has_value()) {
    router.logits = entry.value(*said.logits, place, "logits");
    router.logits_dim = router.expert_dim;
  }
  if (said.scores.has_value()) {
    router.scores = entry.value(*said.scores, place, "scores");
    router.scores_dim = router.expert_dim;
  }
  if (!said.selected.empty() || said.selects_all) {
    router.selected.clear();
    router.selected_dim = router.expert_dim;
    router.add_slot_dim = router.weights_have_shared = false;
    router.slots_alone = nullptr;
    router.selects_all = said.selects_all;
    for (const auto& reference : said.selected) router.selected.push_back(entry.value(reference, place, "selected"));
  }
  if (!said.weights.empty()) {
    router.weights.clear();
    router.weights_of_other_arms.clear();
    router.weights_dim = router.expert_dim;
    router.weights_have_places = router.weights_have_shared = false;
    router.weights_order = nullptr;
    for (const auto& reference : said.weights) router.weights.push_back(entry.value(reference, place, "weights"));
  }
}

// Note [What a hook spec claims]
// A spec that says `scoring` and names ids or weights says by which rule they belong together: the weights are these
// scores at the ids, up to factors. Then a run compares them, whatever the graph shows ("other" claims nothing). Named
// ids that are the indices of a pick are the best of what it reads. Where that is another tensor than the selection of
// the router that was found reads, one of the two is wrong, and only the scores can tell which.
void claim(FoundRouter& router, const SpecEntry& entry, const jit::Value* found_choice, const SpecPlace& place) {
  const HookSpecEntry& said = entry.said();
  const bool names_ids = !said.selected.empty() || said.selects_all;
  const bool is_rule = said.scoring && *said.scoring != "other" && *said.scoring != "hash";
  router.claims_scaled_scores = is_rule && (names_ids || !said.weights.empty());
  if (!names_ids) return;
  router.choice = nullptr;
  const jit::Node* pick = router.selected.size() == 1 ? pick_of_ids(router.selected[0]) : nullptr;
  if (pick == nullptr || (router.form != "slots" && router.form != "dense")) return;
  const auto rank = KnownShapes(place.graph()).of(pick->input(0)).rank;
  jit::Value* choice = selection_source({pick, router.selected, router.expert_dim, rank});
  if (found_choice == nullptr || found_choice == choice) router.choice = choice;
}

void check(const FoundRouter& router, const SpecEntry& entry, const SpecPlace& place) {
  const std::string in = place.printed();
  if (router.owner.empty()) entry.fail("module \"\" is the model itself, which has no path: say name");
  if (router.selected.empty() && !router.selects_all) {
    entry.fail(fmt::format("no router was found in {}: to name one by hand, say what is selected", in));
  }
  if (router.selects_all && (router.weights.size() != 1 || router.form != "dense")) {
    entry.fail(
        fmt::format("selected \"all\" in {} takes one tensor of weights over all experts, in the form dense", in));
  }
  const bool shows_experts =
      router.logits != nullptr || router.scores != nullptr || (router.form != "slots" && !router.weights.empty());
  if (!shows_experts && !router.num_experts.has_value()) {
    entry.fail(
        fmt::format("the router in {} must have logits, scores or num_experts: nothing else tells how many experts "
                    "there are",
                    in));
  }
  // The hook is inserted behind the ids and weights, and sees the values of its block and of the blocks around it.
  std::vector<jit::Value*> values = router.selected;
  values.insert(values.end(), router.weights.begin(), router.weights.end());
  const auto last = *std::max_element(values.begin(), values.end(), [&](const jit::Value* a, const jit::Value* b) {
    return place.graph().order(a->node()) < place.graph().order(b->node());
  });
  values.push_back(router.logits);
  values.push_back(router.scores);
  entry.check_visible(values, last->node(), place);
}

std::string scoring_of(const FoundRouter& router) {
  if (router.scores == nullptr && router.weights.empty()) return "none";
  const jit::Value* value = router.weights.empty() ? router.scores : router.weights[0];
  std::string name;
  bool picked = false;
  while (true) {
    const jit::Node* node = value->node();
    const OpKind kind = op_kind(*node);
    if (kind == OpKind::kScoring) {
      if (name.empty()) name = base_name(*node);
      if (picked) break;  // of what is picked from
    } else if (kind == OpKind::kPick || kind == OpKind::kGather) {
      picked = true;
      if (!name.empty()) return name + "_topk";
    } else if (kind == OpKind::kContract || node->inputs().empty() || kind == OpKind::kOther) {
      break;
    }
    value = node->input(0);
  }
  return name.empty() ? "none" : name;
}

// Fills what the entry does not say of an added router from its values.
void complete(FoundRouter& router, const MethodGraph& graph) {
  if (!router.num_experts.has_value() && router.logits != nullptr) {
    const jit::Value* value = router.logits;
    while (op_kind(*value->node()) == OpKind::kCopy || op_kind(*value->node()) == OpKind::kReshape) {
      value = value->node()->input(0);
    }
    if (value->node()->kind() == jit::aten::linear) {
      const auto weight = graph.constant(value->node()->input(1));
      if (weight.has_value() && weight->isTensor()) router.num_experts = weight->toTensor().size(0);
    }
  }
  if (!router.top_k.has_value() && router.selects_all) router.top_k = router.num_experts;
  if (!router.top_k.has_value() && router.selected.size() == 1) {
    const jit::Node* pick = router.selected[0]->node();
    if (pick->kind() == jit::aten::topk) router.top_k = graph.constant_int(pick->input(1));
  }
  if (router.scoring.empty()) router.scoring = scoring_of(router);
}

// The nodes that the router's values come from.
std::set<const jit::Node*> sources_of(const FoundRouter& router, const MethodSites& sites) {
  std::set<const jit::Node*> before;
  std::vector<const jit::Value*> stack(router.selected.begin(), router.selected.end());
  stack.insert(stack.end(), router.weights.begin(), router.weights.end());
  if (router.logits != nullptr) stack.push_back(router.logits);
  std::set<const jit::Node*> sources;
  for (const auto& skipped : sites.skipped) sources.insert(skipped.source);
  while (!stack.empty()) {
    const jit::Node* node = stack.back()->node();
    stack.pop_back();
    const OpKind kind = op_kind(*node);
    const bool hidden = kind == OpKind::kContract || kind == OpKind::kMixOther;  // before it are other layers
    if (!before.insert(node).second || sources.count(node) || hidden) continue;
    stack.insert(stack.end(), node->inputs().begin(), node->inputs().end());
  }
  return before;
}

// Removes the skipped nodes that are part of a router now. What a spec left out stays.
void drop_explained(const FoundRouter& router, MethodSites& sites) {
  const std::set<const jit::Node*> sources = sources_of(router, sites);
  std::erase_if(sites.skipped, [&](const SkippedNode& skipped) {
    const bool explained = sources.count(skipped.node) || sources.count(skipped.source);
    return explained && skipped.reason != SkipReason::kSkippedByHookSpec;
  });
}

}  // namespace

void describe(FoundRouter& router, const SpecEntry& entry, const SpecPlace& place) {
  const HookSpecEntry& said = entry.said();
  entry.describe(router, place);
  if (said.scoring.has_value()) router.scoring = *said.scoring;
  if (said.num_experts.has_value()) router.num_experts = said.num_experts;
  if (said.top_k.has_value()) router.top_k = said.top_k;
  if (said.form.has_value()) router.form = *said.form;
  if (said.expert_dim.has_value()) {
    router.expert_dim = router.logits_dim = router.scores_dim = *said.expert_dim;
    router.selected_dim = router.weights_dim = *said.expert_dim;
  }
}

void name_router(const SpecEntry& entry, const SpecPlace& place) {
  entry.check_is_call(place);
  std::vector<FoundRouter>& routers = place.sites->routers;
  FoundRouter* found = entry.only_one(routers, place, "routers");
  FoundRouter router = found != nullptr ? *found : FoundRouter();
  if (found == nullptr) {
    router.owner = place.path;
    router.form = entry.said().selects_all ? "dense" : "slots";
  }
  const jit::Value* found_choice = router.choice;
  fill(router, entry, place);
  describe(router, entry, place);
  claim(router, entry, found_choice, place);
  check(router, entry, place);
  if (found == nullptr) complete(router, place.graph());
  drop_explained(router, *place.sites);
  put(routers, found, std::move(router), place.graph());
}

}  // namespace moetap::hooks
