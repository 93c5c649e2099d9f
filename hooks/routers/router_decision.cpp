#include "hooks/routers/router_decision.h"

#include <algorithm>
#include <set>

#include "hooks/routers/applied_weights.h"
#include "hooks/routers/chosen_without_ids.h"
#include "hooks/routers/crossed_slots.h"
#include "hooks/routers/logits_of_selection.h"
#include "hooks/routers/router_events.h"
#include "hooks/routers/scoring_name.h"
#include "hooks/routers/selection_source.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// Ids that a fork returns and weights that are made of them outside: both are read outside.
void leave_fork(const RouterFlow& flow, FoundRouter& router) {
  std::set<const jit::Graph*> graphs;
  for (const jit::Value* value : router.selected) graphs.insert(value->owningGraph());
  for (const jit::Value* value : router.weights) graphs.insert(value->owningGraph());
  if (graphs.size() < 2) return;
  for (auto* values : {&router.selected, &router.weights}) {
    for (jit::Value*& value : *values) {
      if (jit::Value* outside = flow.returned_as(value)) value = outside;
    }
  }
}

// True if two of the picks, which both run, read the same scores, none of them without what another has picked: each is
// a selection of its own, not a slot.
bool picks_twice(const RouterFlow& flow, const std::set<int>& final_picks) {
  const auto read = [](const Pick& pick) {
    const jit::Value* value = pick.node->input(0);
    while (!value->node()->inputs().empty() && op_kind(*value->node()) == OpKind::kCopy)
      value = value->node()->input(0);
    return value;
  };
  for (const int place : final_picks) {
    for (const int other : final_picks) {
      const Pick &a = flow.picks()[static_cast<size_t>(place)], &b = flow.picks()[static_cast<size_t>(other)];
      if (place >= other || a.foreign || b.foreign || a.over_all || b.over_all || read(a) != read(b)) continue;
      if (!in_different_arms({a.node->outputs().back(), b.node->outputs().back()})) return true;
    }
  }
  return false;
}

RouterDecision decide_by_events(const MethodGraph& graph, const RouterFlow& flow) {
  RouterDecision decision;
  auto skip = [&](const jit::Node* node, SkipReason reason) {
    decision.skipped = SkippedNode{node, flow.projection().node, reason};
    return decision;
  };
  if (auto router = chosen_by_threshold(graph, flow)) {
    if (chooses_by_rewritten_ids(flow, {}))
      return skip(last_node(flow, EventKind::kAppliesWeights), SkipReason::kRewritesIds);
    decision.router = std::move(*router);
    return decision;
  }
  if (flow.picks().empty()) {
    const jit::Node* dense = last_node(flow, EventKind::kDenseWeights);
    for (const Event& event : flow.events()) {
      if (event.kind != EventKind::kDenseWeights) continue;
      if (event.what.pairs) return skip(event.node, SkipReason::kWeighsPairs);
      const Fact* fact = nullptr;
      for (const jit::Value* input : event.node->inputs()) {
        for (jit::Value* element : list_elements(const_cast<jit::Value*>(input))) {
          if (const Fact* found = flow.fact(element)) fact = found;
        }
      }
      if (fact != nullptr && fact->scoring == "softmax") return skip(dense, SkipReason::kWeighsEverything);
    }
    return decision;
  }
  const Pick& last = flow.picks().back();
  if (chooses_tokens_for_experts(flow)) {
    if (has_changed_weights(flow)) return skip(last.node, SkipReason::kChangesSortedWeights);
    decision.router = expert_choice(graph, flow);
    return decision.router ? decision : skip(last.node, SkipReason::kChangesSortedWeights);
  }
  if (picks_other_axis(last)) return skip(last.node, SkipReason::kPicksTokens);
  if (last.source.merged) return skip(last.node, SkipReason::kIndexesTokens);
  if (has(flow, EventKind::kChoosesTokens)) return skip(last.node, SkipReason::kIndexesTokens);
  const auto selected = chosen_ids(graph, flow);
  // Without weights, a choice among outputs may be one of boxes or labels.
  const bool weighs = has(flow, EventKind::kAppliesWeights);
  const bool strong = std::any_of(flow.events().begin(), flow.events().end(), [&](const Event& event) {
    return is_strong(event.kind) && !event.what.ordinal && !event.what.ids.empty() &&
           (weighs || event.kind != EventKind::kChoosesOutputs);
  });
  // Without weights, one use of the ids may group tokens or mask them, and tokens may be sorted for anything.
  std::set<const jit::Node*> uses;
  for (const Event& event : flow.events()) {
    if (is_strong(event.kind) && !event.what.sorted && !event.what.ordinal) uses.insert(event.node);
  }
  const bool sure = weighs || uses.size() > 1 || has(flow, EventKind::kChoosesParameters);
  if (!strong || !sure || selected.empty()) {
    if (std::all_of(flow.picks().begin(), flow.picks().end(), [](const Pick& pick) { return pick.foreign; }))
      return decision;
    if (has(flow, EventKind::kSamples)) return skip(last.node, SkipReason::kSamples);
    if (has(flow, EventKind::kLooksUp)) return skip(last.node, SkipReason::kLooksUpValues);
    return skip(last.node, flow.ends_at_own_picks() ? SkipReason::kFindsThreshold : SkipReason::kSelectsNoExpert);
  }
  FoundRouter router;
  router.projection = flow.projection();
  router.selected = selected;
  for (const Pick& pick : flow.picks()) router.picks.push_back(pick.node);
  std::set<int> final_picks;
  for (const jit::Value* ids : selected) {
    const Fact* fact = flow.fact(ids);
    if (fact->nested) return skip(last.node, SkipReason::kPicksFromPicked);
    final_picks.insert(fact->picks.begin(), fact->picks.end());
  }
  router.weights = applied_weights(graph, flow, selected);
  const Fact* weights = router.weights.empty() ? nullptr : flow.fact(router.weights[0]);
  if (weights != nullptr && weights->nested) return skip(last.node, SkipReason::kPicksFromPicked);
  if (weights != nullptr && weights->tokens_of_experts != nullptr) {
    decision.router = chosen_among_the_assigned(flow, *weights, router);
    return decision;
  }
  for (const Event& event : flow.events()) {
    if (event.what.cut) return skip(last.node, SkipReason::kTakesFirstTokens);
    if (event.what.joined && is_strong(event.kind)) return skip(last.node, SkipReason::kPicksFromPicked);
  }
  if (chooses_by_rewritten_ids(flow, selected) || crosses_slots(graph, flow))
    return skip(last.node, SkipReason::kRewritesIds);
  for (const Event& event : flow.events()) {
    if (event.kind == EventKind::kAppliesWeights && event.what.filled)
      return skip(last.node, SkipReason::kWeighsUnpicked);
  }
  if (has_changed_weights(flow)) {
    const Fact* sorted = only_permuted_weights(flow);
    if (sorted == nullptr) return skip(last.node, SkipReason::kChangesSortedWeights);
    router.weights = {sorted->permuted};
    router.weights_order = sorted->order;
    weights = flow.fact(sorted->permuted);
  }
  const Pick* pick = nullptr;
  for (int place : final_picks) {
    const Pick& candidate = flow.picks()[place];
    // Reduced to one number for each group, the groups are the experts.
    const bool of_groups = final_picks.size() == 1 && candidate.source.role == Role::kStat;
    if (candidate.source.grouped && !of_groups) return skip(candidate.node, SkipReason::kPicksInGroups);
    if (pick != nullptr && pick->source.part != candidate.source.part) {
      return skip(candidate.node, SkipReason::kSharesProjection);
    }
    pick = &candidate;
  }
  if (picks_twice(flow, final_picks)) return skip(last.node, SkipReason::kSharesProjection);
  if (weighs_in_several_ways(graph, flow, selected, router.weights)) {
    return skip(last.node, SkipReason::kWeighsInSeveralWays);
  }
  leave_fork(flow, router);
  if (in_different_arms(router.weights)) {
    router.weights_of_other_arms.assign(router.weights.begin() + 1, router.weights.end());
    router.weights.resize(1);
  }
  for (const Event& event : flow.events()) {
    if (event.kind != EventKind::kDispatches || !event.what.dropped || weights == nullptr || weights->dropped) continue;
    // Experts see fewer tokens than the weights tell.
    if (event.what.kept == nullptr || weights->role != Role::kSlot || selected.size() != 1) {
      return skip(last.node, SkipReason::kTakesFirstTokens);
    }
    router.kept = event.what.kept;
    const Fact* kept = flow.fact(router.kept);
    router.kept_has_places = kept != nullptr && kept->placed;
  }
  const bool dense = weights != nullptr && (weights->role == Role::kScore || weights->role == Role::kRouted);
  if (weights != nullptr) {
    router.weights_have_places = weights->role == Role::kRouted;
    router.weights_dim = weights->expert_dim;
  }
  const Fact* ids = flow.fact(selected[0]);
  const bool variable = dense && pick->over_all && !ids->num_slots.has_value();
  router.form = variable ? "variable" : dense ? "dense" : router.kept != nullptr ? "kept" : "slots";

  const Fact& source = weights != nullptr && weights->logits != nullptr ? *weights : pick->source;
  router.logits = source.logits != nullptr ? source.logits : pick->source.logits;
  const bool plain_scores = source.score != nullptr && !source.masked;
  router.scores = plain_scores ? source.score : pick->source.score;
  router.scoring = scoring_name(source, *pick, final_picks.size());
  router.expert_dim = pick->source.expert_dim;
  router.selected_dim = flow.fact(selected[0])->expert_dim;
  if (!router.weights_of_other_arms.empty()) router.scoring = "other";
  router.logits_dim = source.logits != nullptr ? source.logits_dim : pick->source.logits_dim;
  router.scores_dim = plain_scores ? source.score_dim : pick->source.score_dim;
  if (final_picks.size() == 1) take_logits_of_selection(graph, flow, *pick, router);
  if (pick->source.role == Role::kStat) {
    take_reduced_logits(*pick, router);
  } else {
    router.num_experts = pick->source.num_experts;
    router.null_experts = flow.count_null_experts(pick->source);
  }
  if (selected.size() == 1) {
    router.slots_alone = ids->slots_alone;
    router.slots_behind = ids->slots_behind;
    router.weights_have_shared = weights != nullptr && !dense && weights->slots_alone != nullptr;
  }
  const bool read_as_reported = pick->source.role != Role::kStat || router.logits == pick->node->input(0);
  if (final_picks.size() == 1 && !variable && !pick->foreign && router.slots_alone == nullptr && read_as_reported) {
    router.choice = selection_source({pick->node, router.selected, router.expert_dim, pick->source.rank});
  }
  int64_t top_k = 0;
  bool known = true;
  for (const jit::Value* value : selected) {
    const Fact* fact = flow.fact(value);
    known = known && !fact->unsure_slots;
    if (fact->num_slots.has_value()) {
      top_k += *fact->num_slots;
      continue;
    }
    for (int place : fact->picks) {
      const auto& k = flow.picks()[place].k;
      known = known && k.has_value() && fact->aligned;
      top_k += k.value_or(0);
    }
  }
  if (known && !variable) router.top_k = top_k;
  decision.router = std::move(router);
  return decision;
}

}  // namespace

RouterDecision decide(const MethodGraph& graph, const RouterFlow& flow) {
  RouterDecision decision = decide_by_events(graph, flow);
  if (decision.router) {
    const jit::Value* shown = decision.router->logits != nullptr ? decision.router->logits : decision.router->scores;
    const Fact* fact = shown == nullptr ? nullptr : flow.fact(shown);
    decision.router->keeps_token_order = fact != nullptr && !fact->turned;
  }
  const jit::Node* unsure = decision.router ? unsure_application(flow) : nullptr;
  if (unsure == nullptr) return decision;
  const jit::Node* node = flow.picks().empty() ? unsure : flow.picks().back().node;
  return {std::nullopt, SkippedNode{node, flow.projection().node, SkipReason::kUnsureFactor}};
}

RouterDecision decide_hash(const MethodGraph& graph, const RouterFlow& flow, const HashIds& hash) {
  RouterDecision decision;
  // A remainder may mean anything. It means experts if ids are compared with numbers one by one, or choose parameters
  // that a hidden state is multiplied by.
  std::set<const jit::Node*> meetings;
  for (const Event& event : flow.events()) {
    const bool multiplied = event.kind == EventKind::kChoosesParameters && op_kind(*event.node) == OpKind::kContract;
    if (event.kind == EventKind::kDispatches || multiplied) meetings.insert(event.node);
    if (event.kind == EventKind::kChoosesTokens) return decision;
  }
  const auto selected = chosen_ids(graph, flow);
  if (meetings.size() < 2 || selected.size() != 1) return decision;
  if (!hash.num_experts.has_value()) {
    decision.skipped = SkippedNode{hash.ids->node(), hash.ids->node(), SkipReason::kUnknownNumExperts};
    return decision;
  }
  if (chooses_by_rewritten_ids(flow, selected) || crosses_slots(graph, flow)) {
    decision.skipped = SkippedNode{hash.ids->node(), hash.ids->node(), SkipReason::kRewritesIds};
    return decision;
  }
  if (unsure_application(flow) != nullptr) {
    decision.skipped = SkippedNode{hash.ids->node(), hash.ids->node(), SkipReason::kUnsureFactor};
    return decision;
  }
  FoundRouter router;
  router.selected = selected;
  router.weights = applied_weights(graph, flow, selected);
  router.form = "slots";
  router.scoring = "hash";
  router.num_experts = hash.num_experts;
  router.top_k = hash.top_k;
  router.add_slot_dim = !hash.has_slots;
  router.picks = {hash.ids->node()};
  for (const jit::Node* node : graph.nodes()) {
    if (meetings.count(node)) router.users.push_back(const_cast<jit::Node*>(node));
  }
  decision.router = std::move(router);
  return decision;
}

}  // namespace moetap::hooks