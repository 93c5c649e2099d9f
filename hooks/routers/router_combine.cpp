// Transfer functions of RouterFlow for operators that combine followed values with each other or with hidden states.
// See Note [Following a projection].
#include <algorithm>

#include "hooks/routers/crossed_slots.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// Weights that are spread over the places in the experts' queues.
Fact routed(const Fact& weights, const Fact& mask, jit::Value* value) {
  Fact result = remembered(weights);
  merge(result, remembered(mask));
  result.role = Role::kRouted;
  result.dropped = weights.dropped || mask.dropped;
  result.permuted = result.order = nullptr;
  result.expert_dim = -2;  // the places in their queues lie behind the experts
  result.rank.reset();
  result.base = value;
  result.aligned = true;
  result.ids = mask.ids;
  result.parent = nullptr;
  return result;
}

// True for an einsum that is a product of `own` with factors: "tk,t->tk". Its result has the dimensions of `own`, and
// no operand has others.
bool multiplies_by_factors(const MethodGraph& graph, const jit::Node& einsum, const std::vector<jit::Value*>& operands,
                           const jit::Value* own) {
  const auto equation = graph.constant(einsum.input(0));
  if (!equation || !equation->isString()) return false;
  std::string text = equation->toStringRef();
  std::erase(text, ' ');
  const size_t arrow = text.find("->");
  if (arrow == std::string::npos) return false;
  const std::string result = text.substr(arrow + 2);
  size_t begin = 0;
  for (const jit::Value* operand : operands) {
    const size_t end = std::min(text.find(',', begin), arrow);
    const std::string dimensions = text.substr(begin, end - begin);
    if (operand == own ? dimensions != result : dimensions.find_first_not_of(result) != std::string::npos) return false;
    begin = end + 1;
  }
  return true;
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
  for (size_t i = first; i < events_.size(); ++i) events_[i].on_input = on_input;
}

std::optional<Fact> RouterFlow::combine(jit::Node* node, const Fact& left, const Fact& right, OpKind kind) {
  auto pair_is = [&](Role a, Role b) {
    return (left.role == a && right.role == b) || (left.role == b && right.role == a);
  };
  auto of_role = [&](Role role) -> const Fact& { return left.role == role ? left : right; };
  const bool multiply = kind == OpKind::kMultiply;
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
    if (mask.placed && !score.picks.empty()) return routed(score, mask, node->output());
    Fact result = derived(score, node, Role::kScore);
    merge(result, remembered(mask));
    if (score.score == nullptr && !result.picks.empty()) result.masked = true;
    change_scores(result, score, node->output());
    result.one_hot = mask.one_hot;
    result.per_expert = mask.per_expert;
    result.threshold = result.threshold || mask.threshold;
    result.dropped = result.dropped || mask.dropped;
    if (!score.picks.empty()) result.parent = score.base;
    return result;
  }
  if (pair_is(Role::kSlot, Role::kMask)) {
    const Fact& slot = of_role(Role::kSlot);
    const Fact& mask = of_role(Role::kMask);
    if (mask.placed) return routed(slot, mask, node->output());
    Fact result = derived(slot, node, Role::kSlot);
    result.parent = slot.base;
    result.dropped = slot.dropped || mask.dropped;
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
    Fact result = derived(of_role(Role::kIds), node, Role::kIds);
    lose_alignment(result);
    result.placed = result.unknown_numbers = result.strided = true;
    result.numbers = at::Tensor();
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
    result.rewritten = ids.rewritten || (ids.index && !ids.placed && !ids.nested);
    return result;
  }
  return std::nullopt;
}

void RouterFlow::follow_contract(jit::Node* node) {
  std::vector<jit::Value*> operands;
  const std::string name = base_name(*node);
  const bool einsum = name == "einsum";
  if (einsum) {
    operands = list_elements(node->input(node->inputs().size() > 1 ? 1 : 0));
  } else {
    for (jit::Value* input : node->inputs()) {
      if (is_tensor(input)) operands.push_back(input);
    }
  }
  std::vector<Fact> facts;
  const jit::Value *hidden = nullptr, *own_operand = nullptr;
  for (jit::Value* operand : operands) {
    if (const Fact* found = fact(operand))
      facts.push_back(*found), own_operand = operand;
    else if (origins_.is_activation(operand))
      hidden = operand;
  }
  if (facts.empty()) return;
  if (hidden != nullptr && einsum && facts.size() == 1 && carries_weights(facts[0]) &&
      multiplies_by_factors(graph_, *node, operands, own_operand)) {
    Fact product = derived(facts[0], node, facts[0].role);
    if (!facts[0].aligned) {
      lose_alignment(product);
      change_in_order(product, node->output());
    }
    set(node->output(), product);
    return;
  }
  // A hidden state is multiplied by the chosen expert's matrix, by weights or by a mask.
  if (hidden != nullptr) {
    for (const Fact& own : facts) {
      if (own.role == Role::kChosen && own.own) {  // the score of the picked expert
        Fact score = derived(own, node, Role::kSlot);
        score.aligned = true;
        score.num_slots = 1;
        set(node->output(), score);
      } else {
        meet(node, own, hidden);
      }
    }
    return;
  }
  for (const Fact& own : facts) {
    if (own.role == Role::kChosen) event(EventKind::kLooksUp, node, remembered(own));
  }
  // A product of followed values: two by two.
  std::optional<Fact> product = facts[0];
  if (operands.size() == 2 && facts.size() == 2 && (name == "matmul" || name == "bmm")) {
    if (auto scores = contract_scores(node, facts[0], facts[1])) {
      set(node->output(), *scores);
      return;
    }
  }
  for (size_t i = 1; i < facts.size() && product; ++i) product = contract(node, *product, facts[i]);
  if (facts.size() > 1 && product) set(node->output(), *product);
}

// Scores that experts give each other: a column of scores times a row of them, or a matrix of such products times a
// column. The result has the experts before its last dimension.
std::optional<Fact> RouterFlow::contract_scores(jit::Node* node, const Fact& left, const Fact& right) {
  const auto before_pick = [](const Fact& fact) { return fact.role == Role::kScore && fact.picks.empty(); };
  if (!before_pick(left) || !before_pick(right)) return std::nullopt;
  const bool of_column = shapes_.of(node->input(1)).last == 1;
  if (!of_column && shapes_.of(node->input(0)).last != 1) return std::nullopt;
  Fact scores = derived(of_column ? right : left, node, Role::kScore);
  scores.aligned = true;
  scores.score = nullptr;
  scores.scoring.clear();
  scores.part = 0;
  scores.expert_dim = -2;
  scores.rank = shapes_.of(node->output()).rank;
  scores.logits = node->output();
  scores.logits_dim = -2;
  return scores;
}

std::optional<Fact> RouterFlow::contract(jit::Node* node, const Fact& first, const Fact& second) const {
  const Fact left = remembered(first), right = remembered(second);
  const Fact* mask = left.role == Role::kMask ? &left : right.role == Role::kMask ? &right : nullptr;
  if (mask == nullptr) return std::nullopt;
  const Fact& other = mask == &left ? right : left;
  Fact result = derived(other, node, other.role);
  merge(result, *mask);
  if (other.role == Role::kScore && other.picks.empty()) {
    result.role = Role::kSlot;  // scores at the chosen experts
    result.dropped = other.dropped || mask->dropped;
  } else if (mask->placed && (other.role == Role::kSlot || other.role == Role::kScore)) {
    return routed(other, *mask, node->output());
  } else if (other.role == Role::kRouted) {
    result.role = Role::kRouted;
  } else if (other.role == Role::kSlot && mask->one_hot) {
    result.role = Role::kScore;  // weights spread over the experts
    result.expert_dim = -1;
    result.ids = mask->ids;
    result.dropped = other.dropped || mask->dropped;
  } else if (other.role == Role::kSlot || other.role == Role::kScore) {
    result.dropped = other.dropped || mask->dropped;  // those that are kept
  } else if (other.role == Role::kMask) {
    result.role = Role::kMask;
    result.one_hot = false;
    result.placed = left.placed || right.placed;
  } else {
    return std::nullopt;
  }
  return result;
}

void RouterFlow::follow_concatenate(jit::Node* node) {
  const auto parts = list_elements(node->input(0));
  const Fact* first = nullptr;
  size_t followed = 0;
  int first_at = -1;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fact* found = fact(parts[i]);
    if (found == nullptr) continue;
    if (first == nullptr) first = found, first_at = static_cast<int>(i);
    if (found->role == first->role) ++followed;
  }
  if (first == nullptr) return;
  Fact result = derived(remembered(*first), node, first->role);
  result.permuted = result.order = nullptr;
  // One tensor for each slot, put before the tokens.
  const bool of_slots = first->role == Role::kIds || first->role == Role::kSlot;
  if (of_slots && base_name(*node) == "stack" && graph_.constant_int(node->input(1)) == 0) {
    result.expert_dim = -shapes_.of(parts[0]).rank.value_or(1) - 1;
  }
  bool all_slots = first->role == Role::kSlot || first->role == Role::kIds;
  bool in_order = all_slots;  // pieces that are put together again
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fact* found = fact(parts[i]);
    in_order = in_order && found != nullptr && found->role == first->role && found->place == static_cast<int>(i);
    if (found != nullptr && found->role == first->role) {
      merge(result, remembered(*found));
      result.nested = result.nested || found->nested;
      // One slot each, as `ids[:, 0]` and `ids[:, 1]`, makes the slots again.
      if (!found->aligned) all_slots = false;
    }
  }
  if (followed < parts.size() && all_slots && (first_at == 0 || first_at + followed == parts.size())) {
    const bool shared = first->role == Role::kSlot || are_shared(parts, *first);
    if (shared && followed == 1) result.slots_alone = first->base, result.slots_behind = first_at > 0;
  }
  // Slots beside scores of experts that are not selected (shared ones), which come from the same projection.
  if (followed < parts.size() && first->role == Role::kSlot) result.mixed_at = first_at;
  if (followed < parts.size() && first->role == Role::kScore) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const Fact* found = fact(parts[i]);
      if (found != nullptr && found->role == Role::kSlot) {
        result = derived(remembered(*found), node, Role::kSlot);
        result.mixed_at = static_cast<int>(i);
        all_slots = true;
      }
    }
  }
  if (first->role == Role::kScore && first->picks.empty() && result.role == Role::kScore) {
    const auto dim = node->inputs().size() > 1 ? graph_.constant_int(node->input(1)) : std::optional<int64_t>(0);
    if (const auto last = shapes_.of(node->output()).last) {
      result.num_experts = last;
    } else if (dim != 0) {
      result.num_experts.reset();
    }
    if (dim != 0) result.null_columns += null_columns(parts);
    if (first->score != nullptr && first->score == first->base) result.score = node->output();
    change_scores(result, *first, node->output());
  }
  if (first->role == Role::kIds || result.role == Role::kSlot) {
    result.num_slots = std::nullopt;
    result.unsure_slots = result.unsure_slots || grows_in_loop(node->input(0));
    const bool another_order =
        of_slots && !all_slots && !in_order && followed == parts.size() && joins_slots_in_order(node, parts, result);
    if (!all_slots && !in_order && !another_order)
      lose_alignment(result);
    else {
      result.aligned = true;
      result.place = -1;
      if (in_order) result.changed = false;
      if (result.role == Role::kIds)
        result.ids = {node->output()};
      else
        result.weights = {node->output()};
    }
  }
  set(node->output(), result);
}

}  // namespace moetap::hooks
