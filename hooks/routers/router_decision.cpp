#include "hooks/routers/router_decision.h"

#include <algorithm>

#include "hooks/routers/logits_of_selection.h"
#include "hooks/routers/selection_source.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_strong(EventKind kind) {
  return kind == EventKind::kChoosesParameters || kind == EventKind::kDispatches || kind == EventKind::kChoosesOutputs;
}

bool has(const RouterFlow& flow, EventKind kind) {
  return std::any_of(flow.events().begin(), flow.events().end(),
                     [&](const Event& event) { return event.kind == kind; });
}

// Where weights met what may be a factor or a hidden state; null if they did not.
const jit::Node* unsure_application(const RouterFlow& flow) {
  const auto found = std::find_if(flow.events().begin(), flow.events().end(), [](const Event& event) {
    return event.kind == EventKind::kAppliesWeights && event.unsure;
  });
  return found == flow.events().end() ? nullptr : found->node;
}

const jit::Node* last_node(const RouterFlow& flow, EventKind kind) {
  const jit::Node* node = nullptr;
  for (const Event& event : flow.events()) {
    if (event.kind == kind) node = event.node;
  }
  return node;
}

// Ids that choose experts. The latest for each pick: ids that were rewritten after the pick replace it.
std::vector<jit::Value*> chosen_ids(const MethodGraph& graph, const RouterFlow& flow) {
  std::vector<jit::Value*> candidates;
  for (const Event& event : flow.events()) {
    const bool dense = event.kind == EventKind::kAppliesWeights;
    if ((!is_strong(event.kind) && !dense) || event.what.ordinal) continue;
    for (jit::Value* ids : event.what.ids) {
      if (std::find(candidates.begin(), candidates.end(), ids) == candidates.end()) candidates.push_back(ids);
    }
  }
  std::sort(candidates.begin(), candidates.end(),
            [&](const jit::Value* a, const jit::Value* b) { return graph.order(a->node()) > graph.order(b->node()); });
  std::vector<jit::Value*> chosen;
  std::set<int> covered;
  for (jit::Value* ids : candidates) {
    const Fact* fact = flow.fact(ids);
    if (fact == nullptr) continue;
    const bool fresh =
        std::any_of(fact->picks.begin(), fact->picks.end(), [&](int pick) { return !covered.count(pick); });
    if (!fresh) continue;
    covered.insert(fact->picks.begin(), fact->picks.end());
    chosen.push_back(ids);
  }
  std::reverse(chosen.begin(), chosen.end());
  return chosen;
}

// One value that several were cut from, if there is one.
jit::Value* common_parent(const RouterFlow& flow, const std::vector<jit::Value*>& values) {
  std::vector<jit::Value*> lineage;
  for (jit::Value* value = values[0]; value != nullptr;) {
    lineage.push_back(value);
    const Fact* fact = flow.fact(value);
    value = fact == nullptr ? nullptr : fact->parent;
  }
  for (jit::Value* ancestor : lineage) {
    const bool of_all = std::all_of(values.begin(), values.end(), [&](jit::Value* value) {
      while (value != nullptr && value != ancestor) {
        const Fact* fact = flow.fact(value);
        value = fact == nullptr ? nullptr : fact->parent;
      }
      return value == ancestor;
    });
    if (of_all) return ancestor;
  }
  return nullptr;
}

// True for values of which none can be seen where another is made: each belongs to an arm of a branch.
bool in_different_arms(const std::vector<jit::Value*>& values) {
  for (const jit::Value* value : values) {
    for (const jit::Value* other : values) {
      if (value != other && visible_from(value, other->node())) return false;
    }
  }
  return values.size() > 1;
}

// True for weights of one slot each, for all slots of `selected`; puts them in the slots' order.
bool one_for_each_slot(const RouterFlow& flow, std::vector<jit::Value*>& weights, const jit::Value* selected) {
  const Fact* ids = flow.fact(selected);
  if (ids == nullptr || ids->num_slots != static_cast<int64_t>(weights.size())) return false;
  const auto place = [&](const jit::Value* value) {
    return flow.fact(value) == nullptr ? -1 : flow.fact(value)->place;
  };
  std::sort(weights.begin(), weights.end(),
            [&](const jit::Value* a, const jit::Value* b) { return place(a) < place(b); });
  for (size_t i = 0; i < weights.size(); ++i) {
    if (place(weights[i]) != static_cast<int>(i)) return false;
  }
  return true;
}

std::vector<jit::Value*> applied_weights(const MethodGraph& graph, const RouterFlow& flow,
                                         const std::vector<jit::Value*>& selected) {
  std::vector<jit::Value*> applied;
  // Weights that scale an expert's output; those that scale its input only where none do.
  const bool on_outputs = std::any_of(flow.events().begin(), flow.events().end(), [](const Event& event) {
    return event.kind == EventKind::kAppliesWeights && !event.on_input && !event.what.weights.empty();
  });
  for (const Event& event : flow.events()) {
    if (event.kind != EventKind::kAppliesWeights || (on_outputs && event.on_input)) continue;
    for (jit::Value* weights : event.what.weights) {
      if (std::find(applied.begin(), applied.end(), weights) == applied.end()) applied.push_back(weights);
    }
  }
  if (applied.size() <= 1 || in_different_arms(applied)) return applied;
  if (jit::Value* parent = common_parent(flow, applied)) return {parent};
  std::sort(applied.begin(), applied.end(),
            [&](const jit::Value* a, const jit::Value* b) { return graph.order(a->node()) < graph.order(b->node()); });
  if (selected.size() == 1 && one_for_each_slot(flow, applied, selected[0])) return applied;
  if (selected.size() <= 1) return {applied.back()};
  // One tensor for each slot: the last weights that were made with the slot's ids.
  std::vector<jit::Value*> weights;
  for (jit::Value* ids : selected) {
    jit::Value* own = nullptr;
    for (jit::Value* candidate : applied) {
      const Fact* fact = flow.fact(candidate);
      if (fact != nullptr && !fact->ids.empty() && fact->ids[0] == ids) own = candidate;
    }
    if (own == nullptr) return {applied.back()};
    weights.push_back(own);
  }
  return weights;
}

// Ids or weights that nobody has followed choose or weigh experts.
bool chooses_by_rewritten_ids(const RouterFlow& flow) {
  return std::any_of(flow.events().begin(), flow.events().end(), [](const Event& event) {
    return event.what.rewritten && (is_strong(event.kind) || event.kind == EventKind::kAppliesWeights);
  });
}

bool has_changed_weights(const RouterFlow& flow) {
  return std::any_of(flow.events().begin(), flow.events().end(),
                     [](const Event& event) { return event.kind == EventKind::kAppliesWeights && event.what.changed; });
}

// What was applied, where that are the same weights in one order everywhere, from which they can be put back: see
// Note [Weights in another order]. Null where it is not.
const Fact* only_permuted_weights(const RouterFlow& flow) {
  const Fact* only = nullptr;
  for (const Event& event : flow.events()) {
    if (event.kind != EventKind::kAppliesWeights) continue;
    const Fact& what = event.what;
    if (!what.changed || what.order == nullptr || what.role != Role::kSlot) return nullptr;
    if (only != nullptr && (what.permuted != only->permuted || what.order != only->order)) return nullptr;
    only = &what;
  }
  return only;
}

// One name for each of PyTorch's spellings of a scoring function.
std::string plain_scoring(const std::string& name) {
  if (name == "_softmax" || name == "special_softmax" || name == "log_softmax" || name == "_log_softmax" ||
      name == "special_log_softmax") {
    return "softmax";
  }
  return name == "special_expit" || name == "log_sigmoid" ? "sigmoid" : name;
}

std::string scoring_name(const Fact& source, const Pick& pick, size_t picks) {
  if (pick.foreign) return "hash";
  if (source.masked && !source.scoring.empty() && picks > 1 && plain_scoring(source.scoring) == "softmax" &&
      pick.source.scoring.empty()) {
    return "sparsemixer";
  }
  // Picked from logits, with scores as weights that were computed beside them.
  if (pick.source.scoring.empty() && source.score != nullptr && !source.masked) return plain_scoring(source.scoring);
  if (pick.source.scoring.empty()) {
    const std::string& later = source.slot_scoring.empty() ? source.scoring : source.slot_scoring;
    return later.empty() ? "none" : plain_scoring(later) + "_topk";
  }
  // The scores are those that the weights come from, whatever others are picked from.
  const bool plain_scores = source.score != nullptr && !source.masked && !source.scoring.empty();
  std::string name = plain_scoring(plain_scores ? source.scoring : pick.source.scoring);
  if (name == "sqrtsoftplus") return pick.source.biased ? "sqrtsoftplus_bias" : name;
  return pick.source.biased ? name + "_bias" : name;
}

// Expert choice: scores laid out as [.., experts, tokens], from which each expert picks tokens, with weights for its
// outputs.
bool chooses_tokens_for_experts(const RouterFlow& flow) {
  if (flow.picks().size() != 1) return false;
  const Pick& pick = flow.picks()[0];
  const Fact& source = pick.source;
  if (!picks_other_axis(pick) || source.expert_dim != -2 || source.logits == nullptr) return false;
  const int64_t dim = *pick.dim >= 0 && source.rank.has_value() ? *pick.dim - *source.rank : *pick.dim;
  const bool tokens = has(flow, EventKind::kChoosesTokens) || has(flow, EventKind::kDispatches);
  return dim == -1 && tokens && has(flow, EventKind::kAppliesWeights);
}

FoundRouter expert_choice(const MethodGraph& graph, const RouterFlow& flow) {
  const Pick& pick = flow.picks()[0];
  FoundRouter router;
  router.projection = flow.projection();
  router.selected = {pick.indices};
  router.weights = applied_weights(graph, flow, router.selected);
  router.form = "expert_choice";
  router.logits = pick.source.logits;
  router.scores = pick.source.score;
  router.logits_dim = pick.source.logits_dim;
  router.scores_dim = pick.source.score_dim;
  router.expert_dim = -1;
  router.scoring = scoring_name(pick.source, pick, 1);
  router.num_experts = pick.source.num_experts;
  router.picks = {pick.node};
  return router;
}

// Experts that take the best of the tokens that chose them: `weights` are those of the tokens that they take.
FoundRouter chosen_among_the_assigned(const RouterFlow& flow, const Fact& weights, FoundRouter router) {
  const Pick& pick = flow.picks()[0];
  router.selected = {weights.tokens_of_experts};
  router.form = "expert_choice";
  router.unused_where_zero = true;
  router.logits = weights.logits;
  router.scores = weights.score;
  router.logits_dim = weights.logits_dim;
  router.scores_dim = weights.score_dim;
  router.weights_dim = router.selected_dim = router.expert_dim = -1;
  router.scoring = scoring_name(pick.source, pick, 1);
  router.num_experts = pick.source.num_experts;
  return router;
}

// Experts whose scores are as large as one of them: no ids, but weights that are zero at all others.
std::optional<FoundRouter> chosen_by_threshold(const MethodGraph& graph, const RouterFlow& flow) {
  FoundRouter router;
  router.weights = applied_weights(graph, flow, {});
  if (router.weights.size() != 1) return std::nullopt;
  const Fact* weights = flow.fact(router.weights[0]);
  if (weights == nullptr || !weights->threshold || weights->nested || weights->grouped || weights->changed) {
    return std::nullopt;
  }
  // Of hidden states, too, a part may be zero, and the product with others is taken. Experts are weighed one by one, or
  // all at once by numbers that were compared.
  size_t applications = 0;
  bool at_once = false;
  for (const Event& event : flow.events()) {
    if (event.kind != EventKind::kAppliesWeights) continue;
    at_once = at_once || op_kind(*event.node) == OpKind::kContract;
    if (!event.what.column) continue;
    const jit::Node* owner = event.node->owningBlock()->owningNode();
    applications += owner != nullptr && owner->kind() == jit::prim::Loop ? 2 : 1;
  }
  if (applications < 2 && !(at_once && !weights->by_sign)) return std::nullopt;
  for (const Pick& pick : flow.picks()) {
    if (picks_other_axis(pick)) return std::nullopt;
  }
  router.projection = flow.projection();
  router.form = "variable";
  router.selects_all = true;
  router.logits = weights->logits;
  router.scores = weights->score;
  router.logits_dim = weights->logits_dim;
  router.scores_dim = weights->score_dim;
  router.expert_dim = router.weights_dim = weights->expert_dim;
  router.scoring = weights->scoring.empty() ? "none" : plain_scoring(weights->scoring);
  router.num_experts = weights->num_experts;
  for (const Pick& each : flow.picks()) router.picks.push_back(each.node);
  return router;
}

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

}  // namespace

namespace {

RouterDecision decide_by_events(const MethodGraph& graph, const RouterFlow& flow) {
  RouterDecision decision;
  auto skip = [&](const jit::Node* node, SkipReason reason) {
    decision.skipped = SkippedNode{node, flow.projection().node, reason};
    return decision;
  };
  if (auto router = chosen_by_threshold(graph, flow)) {
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
    return decision;
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
  if (chooses_by_rewritten_ids(flow)) return skip(last.node, SkipReason::kRewritesIds);
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
    if (candidate.source.grouped) return skip(candidate.node, SkipReason::kPicksInGroups);
    if (pick != nullptr && pick->source.part != candidate.source.part) {
      return skip(candidate.node, SkipReason::kSharesProjection);
    }
    pick = &candidate;
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
  router.num_experts = pick->source.num_experts;
  router.null_experts = flow.count_null_experts(pick->source);
  if (selected.size() == 1) {
    router.slots_alone = ids->slots_alone;
    router.slots_behind = ids->slots_behind;
    router.weights_have_shared = weights != nullptr && !dense && weights->slots_alone != nullptr;
  }
  if (final_picks.size() == 1 && !variable && !pick->foreign && router.slots_alone == nullptr) {
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
  if (chooses_by_rewritten_ids(flow)) {
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
