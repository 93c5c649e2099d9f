#include "hooks/routers/chosen_without_ids.h"

#include "hooks/routers/applied_weights.h"
#include "hooks/routers/choices_behind.h"
#include "hooks/routers/router_events.h"
#include "hooks/routers/scoring_name.h"

namespace moetap::hooks {
namespace jit = torch::jit;

bool chooses_tokens_for_experts(const RouterFlow& flow) {
  if (flow.picks().size() != 1) return false;
  const Pick& pick = flow.picks()[0];
  const Fact& source = pick.source;
  if (!picks_other_axis(pick) || source.expert_dim != -2 || source.logits == nullptr) return false;
  const int64_t dim = *pick.dim >= 0 && source.rank.has_value() ? *pick.dim - *source.rank : *pick.dim;
  const bool tokens = has(flow, EventKind::kChoosesTokens) || has(flow, EventKind::kDispatches);
  return dim == -1 && tokens && has(flow, EventKind::kAppliesWeights);
}

namespace {

// The weights [experts, places] that were spread over the tokens to give `spread`; null where more was done to them.
jit::Value* before_they_were_spread(const RouterFlow& flow, const jit::Value* spread) {
  for (const jit::Value* read : tensors_read(*spread->node())) {
    while (!read->node()->inputs().empty() &&
           (op_kind(*read->node()) == OpKind::kCopy || op_kind(*read->node()) == OpKind::kReshape)) {
      read = read->node()->input(0);
    }
    const Fact* fact = flow.fact(read);
    if (fact != nullptr && fact->role == Role::kSlot && fact->aligned && !fact->flat) {
      return const_cast<jit::Value*>(read);
    }
  }
  return nullptr;
}

}  // namespace

std::optional<FoundRouter> expert_choice(const MethodGraph& graph, const RouterFlow& flow) {
  const Pick& pick = flow.picks()[0];
  FoundRouter router;
  router.projection = flow.projection();
  router.selected = {pick.indices};
  router.weights = applied_weights(graph, flow, router.selected);
  for (jit::Value*& weights : router.weights) {
    const Fact* fact = flow.fact(weights);
    if (fact == nullptr || fact->role == Role::kSlot) continue;
    weights = before_they_were_spread(flow, weights);
    if (weights == nullptr) return std::nullopt;
  }
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

}  // namespace moetap::hooks
