// Transfer functions of RouterFlow for operators that combine followed values with each other or with hidden states.
// See Note [Following a projection].
#include <algorithm>

#include "hooks/routers/crossed_slots.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

const jit::Value* without_detach(const jit::Value* value) {
  while (true) {
    const std::string name = base_name(*value->node());
    if (name != "detach" && name != "clone" && name != "contiguous" && name != "alias") return value;
    value = value->node()->input(0);
  }
}

bool is_same(const jit::Value* a, const jit::Value* b) {
  return without_detach(a) == without_detach(b);
}

// True for the sum by which gradients pass a pick: `hard - soft.detach() + soft` or `soft - soft.detach() + hard`. Its
// value is that of `hard`. Also for each difference in it, which is added to what it lacks.
bool passes_gradients(const jit::Node& node) {
  const std::string name = base_name(node);
  if (name == "sub") {
    if (is_same(node.input(0), node.input(1))) return true;
    const auto& uses = node.output(0)->uses();
    return !uses.empty() && std::all_of(uses.begin(), uses.end(), [&](const jit::Use& use) {
      return base_name(*use.user) == "add" && passes_gradients(*use.user);
    });
  }
  if (name != "add") return false;
  for (const size_t i : {0, 1}) {
    const jit::Node& part = *node.input(i)->node();
    if (base_name(part) != "sub") continue;
    if (is_same(part.input(0), part.input(1)) || is_same(part.input(1), node.input(1 - i))) return true;
  }
  return false;
}

}  // namespace

void RouterFlow::meet(jit::Node* node, const Fact& fact, const jit::Value* hidden) {
  const Fact what = remembered(fact);
  const size_t first = events_.size();
  if (fact.threshold && carries_weights(fact)) {
    event(EventKind::kAppliesWeights, node, what);
    return;
  }
  switch (fact.role) {
    case Role::kSlot:
    case Role::kRouted:
      event(EventKind::kAppliesWeights, node, what);
      // Spread over the places of the experts' queues, or one expert's share: the ids were compared with its number.
      if ((fact.per_expert || fact.role == Role::kRouted) && !fact.ids.empty())
        event(EventKind::kDispatches, node, what);
      break;
    case Role::kScore:
      event(fact.picks.empty() ? EventKind::kDenseWeights : EventKind::kAppliesWeights, node, what);
      if (!fact.picks.empty() && !fact.ids.empty()) event(EventKind::kDispatches, node, what);
      break;
    case Role::kStat:
      if (!what.weights.empty()) event(EventKind::kAppliesWeights, node, what);
      break;
    case Role::kMask:
      if (!what.ids.empty()) event(EventKind::kDispatches, node, what);
      break;
    case Role::kChosen:
      event(EventKind::kChoosesParameters, node, what);
      break;
    case Role::kIds:
    case Role::kOrder:
      break;
  }
  const bool on_input = precedes_projection(hidden);
  for (size_t i = first; i < events_.size(); ++i) {
    events_[i].on_input = on_input;
    events_[i].hidden = hidden;
  }
}

std::optional<Fact> RouterFlow::combine(jit::Node* node, const Fact& left, const Fact& right, OpKind kind) {
  auto pair_is = [&](Role a, Role b) {
    return (left.role == a && right.role == b) || (left.role == b && right.role == a);
  };
  auto of_role = [&](Role role) -> const Fact& { return left.role == role ? left : right; };
  const bool multiply = kind == OpKind::kMultiply;
  const auto kept_by_mask = [&] {
    for (const jit::Value* input : node->inputs()) {
      const Fact* found = is_tensor(input) ? fact(input) : nullptr;
      if (found != nullptr && found->role == Role::kMask) return kept_by(input, true);
    }
    return KeptBy{};
  };
  if (left.role == right.role) {
    Fact result = derived(left, node, left.role);
    const bool divides = base_name(*node) == "div";
    if (!divides || left.role != Role::kSlot) {
      merge(result, right);
      join_places(result, right);
    }
    if (left.role == Role::kScore) {
      if (!left.aligned || !right.aligned) result.aligned = true;
      result.biased = left.biased && right.biased;
      if (left.part != right.part) {  // a part that was scored, as the width of noise, is added to another
        const Fact& logits = left.score == nullptr ? left : right;
        result = derived(logits, node, Role::kScore);
        merge(result, right);
        change_scores(result, logits, node->output());
        return result;
      }
      if (left.score == nullptr && right.score != nullptr) {
        result.score = right.score, result.logits = right.logits, result.scoring = right.scoring;
      }
      if (left.score == nullptr && right.score == nullptr) {
        result.logits = left.logits;
        change_scores(result, left, node->output());
      }
      if (base_name(*node) == "add" && left.score != nullptr) result.biased = true;
      // Of two that were picked by the same, both are 0 elsewhere.
      const bool sums = base_name(*node) == "add" || base_name(*node) == "sub";
      if (sums && left.picks.empty() != right.picks.empty() && !left.threshold && !right.threshold)
        result.filled = left.filled || right.filled || !passes_gradients(*node);
    } else if (left.role == Role::kSlot && (!left.aligned || !right.aligned)) {
      lose_alignment(result);
      if (left.order != right.order) result.permuted = result.order = nullptr;
      result.in_pieces = left.in_pieces || right.in_pieces;
      change_in_order(result, node->output());
    } else if (left.role == Role::kIds) {
      result.index = (left.aligned || left.index) && (right.aligned || right.index);
      result.aligned = false;
      result.base = nullptr;
      result.ids = remembered(left).ids;
      merge(result, remembered(right));
      result.numbers = at::Tensor();
      result.unknown_numbers = true;
      result.strided = left.strided || right.strided;
      result.rewritten = result.rewritten || !result.strided;
    } else if (left.role == Role::kMask) {
      // A product keeps what both set; a sum of one-hots sets several places.
      result.per_expert = left.per_expert || right.per_expert;
      result.one_hot = multiply && (left.one_hot || right.one_hot);
      result.placed = left.placed || right.placed;
      result.threshold = left.threshold || right.threshold;
      if (result.threshold) result.ids.clear();
      result.dropped = left.dropped || right.dropped;
      result.ordinal = left.ordinal && right.ordinal;
      // Over the experts, for each token: what is spread over the places of a queue tells no more.
      result.kept = left.kept != nullptr ? left.kept : right.kept;
      const bool over_experts = !result.placed || left.one_hot || right.one_hot;
      if (multiply && result.dropped && result.kept == nullptr && over_experts && left.aligned && right.aligned)
        result.kept = node->output();
    }
    return result;
  }
  if (pair_is(Role::kScore, Role::kMask)) {
    const Fact& score = of_role(Role::kScore);
    const Fact& mask = of_role(Role::kMask);
    if (mask.placed && !score.picks.empty()) return spread_over_places(score, mask, node->output());
    Fact result = derived(score, node, Role::kScore);
    merge(result, remembered(mask));
    if (score.score == nullptr && !result.picks.empty()) result.masked = true;
    change_scores(result, score, node->output());
    result.one_hot = mask.one_hot;
    result.per_expert = mask.per_expert;
    if (mask.one_hot && score.picks.empty()) result.place = mask.place, result.place_in_run = mask.place_in_run;
    // Ids tell who is chosen, whatever is zero besides.
    result.threshold = (result.threshold && mask.ids.empty()) || mask.threshold;
    result.dropped = result.dropped || mask.dropped;
    if (!score.picks.empty()) result.parent = score.base;
    return result;
  }
  if (pair_is(Role::kSlot, Role::kMask)) {
    const Fact& slot = of_role(Role::kSlot);
    const Fact& mask = of_role(Role::kMask);
    if (mask.placed) return spread_over_places(slot, mask, node->output());
    Fact result = derived(slot, node, Role::kSlot);
    result.parent = slot.base;
    result.dropped = slot.dropped || mask.dropped;
    if (multiply) result.zero_unless.push_back(kept_by_mask());
    if (result.place < 0 && result.place_in_run == nullptr) {
      result.place = mask.place;
      result.place_in_run = mask.place_in_run;
    }
    if (!slot.aligned) lose_alignment(result);
    if (slot.order != nullptr) change_in_order(result, node->output());
    if (mask.per_expert) {
      Fact part = slot;
      part.in_pieces = true;
      lose_alignment(part);
      part.ids = mask.ids;
      part.joined = part.joined || mask.joined;
      part.rewritten = part.rewritten || mask.rewritten || are_of_other_slots(slot, mask);
      part.per_expert = true;
      return part;
    }
    if (mask.one_hot) {  // weights spread over the experts
      result.role = Role::kScore;
      result.expert_dim = -1;
      result.parent = result.permuted = result.order = nullptr;
      merge(result, remembered(mask));
      result.ids = mask.ids;
      return result;
    }
    return result;  // slots that are kept or dropped
  }
  if (pair_is(Role::kScore, Role::kSlot) || pair_is(Role::kScore, Role::kStat)) {
    const Fact& score = of_role(Role::kScore);
    Fact result = derived(score, node, Role::kScore);
    if (score.score == score.base && score.score != nullptr) result.score = node->output();
    result.relative = !of_role(left.role == Role::kScore ? right.role : left.role).picks.empty();
    change_scores(result, score, node->output());
    const std::string name = base_name(*node);
    const bool sums = (name == "add" || name == "sub") && !passes_gradients(*node);
    result.filled = score.filled || (sums && !score.picks.empty() && !score.threshold);
    return result;
  }
  if (pair_is(Role::kSlot, Role::kStat)) {
    const Fact& slot = of_role(Role::kSlot);
    Fact result = derived(slot, node, Role::kSlot);
    if (!slot.aligned) {
      lose_alignment(result);
      change_in_order(result, node->output());
    }
    return result;
  }
  if (pair_is(Role::kSlot, Role::kChosen)) {
    const Fact& slot = of_role(Role::kSlot);
    Fact result = derived(slot, node, Role::kSlot);
    if (!slot.aligned) lose_alignment(result);
    if (slot.order != nullptr) change_in_order(result, node->output());
    result.nested = slot.nested;
    event(EventKind::kLooksUp, node, remembered(slot));
    return result;
  }
  if (pair_is(Role::kMask, Role::kStat) && of_role(Role::kMask).threshold) {  // equal weights for the chosen
    Fact result = derived(of_role(Role::kMask), node, Role::kScore);
    result.ids.clear();
    return result;
  }
  if (pair_is(Role::kMask, Role::kStat)) {
    Fact result = derived(of_role(Role::kMask), node, Role::kStat);
    return result;
  }
  if (pair_is(Role::kRouted, Role::kStat) || pair_is(Role::kRouted, Role::kMask)) {
    return derived(of_role(Role::kRouted), node, Role::kRouted);
  }
  if (pair_is(Role::kIds, Role::kStat)) {  // places in the experts' queues, numbered over all experts
    const Fact& ids = of_role(Role::kIds);
    Fact result = derived(ids, node, Role::kIds);
    lose_alignment(result);
    result.placed = result.unknown_numbers = result.strided = true;
    result.numbers = at::Tensor();
    if (base_name(*node) == "add") add_places(result, ids);
    return result;
  }
  if (pair_is(Role::kIds, Role::kMask)) {
    const Fact& ids = of_role(Role::kIds);
    Fact result = derived(ids, node, Role::kIds);
    result.parent = ids.base;
    result.numbers = at::Tensor();
    result.unknown_numbers = true;
    if (ids.aligned) {
      result.ids = {node->output()};
      return result;
    }
    lose_alignment(result);
    result.index = ids.index;
    if (multiply && keeps_experts_only(kept_by_mask(), ids)) {
      replace_unused(result, ids, 0);
      return result;
    }
    result.rows = at::Tensor();
    result.rewritten = ids.rewritten || (ids.index && !ids.placed && !ids.nested);
    return result;
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
