// The transfer functions of RouterFlow: what each kind of operator makes of a followed value. See Note [Following a projection].
#include <algorithm>

#include "hooks/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_tensor(const jit::Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

void merge(Fact& into, const Fact& from) {
  into.picks.insert(from.picks.begin(), from.picks.end());
  for (jit::Value* id : from.ids) {
    if (std::find(into.ids.begin(), into.ids.end(), id) == into.ids.end()) into.ids.push_back(id);
  }
  for (jit::Value* weight : from.weights) {
    if (std::find(into.weights.begin(), into.weights.end(), weight) == into.weights.end()) into.weights.push_back(weight);
  }
  into.nested = into.nested || from.nested;
}

bool carries_weights(const Fact& fact) {
  return fact.role == Role::kSlot || fact.role == Role::kRouted || (fact.role == Role::kScore && !fact.picks.empty());
}

// A value in another order than tokens and slots: what it was made of is remembered instead of the value.
void lose_alignment(Fact& fact) {
  if (fact.aligned && fact.base != nullptr) {
    if (fact.role == Role::kIds) fact.ids = {fact.base};
    if (carries_weights(fact)) fact.weights = {fact.base};
  }
  fact.aligned = false;
  fact.base = nullptr;
}

// What an event or a mask remembers of a value.
Fact remembered(Fact fact);

// Weights that are spread over the places in the experts' queues.
Fact routed(const Fact& weights, const Fact& mask, jit::Node* node) {
  Fact result = remembered(weights);
  merge(result, remembered(mask));
  result.role = Role::kRouted;
  result.aligned = false;
  result.base = nullptr;
  result.ids = mask.ids;
  (void)node;
  return result;
}

Fact remembered(Fact fact) {
  if (fact.aligned && fact.base != nullptr) {
    if (fact.role == Role::kIds) fact.ids = {fact.base};
    if (carries_weights(fact) && fact.role != Role::kRouted) fact.weights = {fact.base};
  }
  return fact;
}

int64_t from_end(int64_t dim, std::optional<int64_t> rank) { return dim >= 0 && rank.has_value() ? dim - *rank : dim; }

// Where the experts lie after axes have changed places.
void move_axis(const MethodGraph& graph, const jit::Node& node, Fact& fact) {
  const std::string name = base_name(node);
  if (name == "permute") {
    const jit::Node* dims = node.input(1)->node();
    if (dims->kind() != jit::prim::ListConstruct) return;
    const int64_t rank = static_cast<int64_t>(dims->inputs().size());
    fact.rank = rank;
    const int64_t old = from_end(fact.expert_dim, rank);
    for (int64_t place = 0; place < rank; ++place) {
      const auto dim = graph.constant_int(dims->inputs()[place]);
      if (dim.has_value() && from_end(*dim, rank) == old) fact.expert_dim = place - rank;
    }
    return;
  }
  std::optional<int64_t> first = 0, second = 1;  // t, mT
  if (name == "t" || name == "numpy_T" || name == "matrix_H") {
    fact.rank = 2;
  } else if (name == "mT" || name == "adjoint") {
    first = -1, second = -2;
  } else if (node.inputs().size() >= 3) {
    first = graph.constant_int(node.input(1)), second = graph.constant_int(node.input(2));
  }
  if (!first.has_value() || !second.has_value()) return;
  // Dimensions counted from the front tell the rank where they name the last: that of the experts moves, or it would not matter.
  if (*first >= 0 && *second >= 0 && !fact.rank.has_value()) fact.rank = std::max(*first, *second) + 1;
  const int64_t old = from_end(fact.expert_dim, fact.rank);
  const int64_t a = from_end(*first, fact.rank), b = from_end(*second, fact.rank);
  if (name == "movedim" || name == "moveaxis") {
    if (a == old) fact.expert_dim = b;
    else if (a < 0 && b < 0 && a < old && b >= old) fact.expert_dim = old - 1;
    else if (a < 0 && b < 0 && a > old && b <= old) fact.expert_dim = old + 1;
  } else if (old == a) {
    fact.expert_dim = b;
  } else if (old == b) {
    fact.expert_dim = a;
  }
}

// Views that name all sizes tell the rank; an expert axis that is not the last keeps its place from the front.
void resize_rank(Fact& fact, int64_t rank) {
  if (fact.expert_dim != -1 && fact.rank.has_value()) fact.expert_dim = fact.expert_dim + *fact.rank - rank;
  fact.rank = rank;
}

bool is_full_range(const MethodGraph& graph, const jit::Node& node) {
  if (base_name(node) != "slice" || node.inputs().size() < 5) return false;
  const auto step = graph.constant_int(node.input(4));
  const auto start = graph.constant(node.input(2));
  const auto end = graph.constant(node.input(3));
  if (!step || *step != 1 || !start || !end) return false;
  const bool from_start = start->isNone() || (start->isInt() && start->toInt() == 0);
  const bool to_end = end->isNone() || (end->isInt() && end->toInt() == std::numeric_limits<int64_t>::max());
  return from_start && to_end;
}

}  // namespace

void RouterFlow::visit(jit::Node* node) {
  if (node->kind() == jit::prim::Return) return visit_return(node);
  const OpKind kind = op_kind(*node);
  const bool from_list = !node->inputs().empty() && !is_tensor(node->input(0)) && node->kind() == jit::aten::__getitem__;
  if (kind == OpKind::kOther || from_list || node->kind() == jit::prim::unchecked_cast) return visit_structure(node);
  switch (kind) {
    case OpKind::kCopy:
    case OpKind::kReshape:
    case OpKind::kMoveAxis:
    case OpKind::kRepeat:
      return follow_same(node, kind);
    case OpKind::kSlice:
    case OpKind::kSelect:
    case OpKind::kSplit:
      return follow_part(node, kind);
    case OpKind::kScoring:
      return follow_scoring(node);
    case OpKind::kElementwise:
    case OpKind::kMultiply:
      return follow_elementwise(node, kind);
    case OpKind::kReduce:
    case OpKind::kCumulate:
      return follow_reduce(node, kind);
    case OpKind::kPick:
      return follow_pick(node);
    case OpKind::kContract:
      return follow_contract(node);
    case OpKind::kGather:
      return follow_gather(node, node->input(0), {node->input(base_name(*node) == "gather" ? 2 : 1)});
    case OpKind::kIndex: {
      const std::string name = base_name(*node);
      if (name == "index_select") return follow_gather(node, node->input(0), {node->input(2)});
      std::vector<jit::Value*> indices;
      if (node->inputs().size() > 1) indices = list_elements(node->input(1));
      return follow_gather(node, node->input(0), indices);
    }
    case OpKind::kScatter:
      if (node->inputs().size() > 3) follow_scatter(node, node->input(0), fact(node->input(2)), node->input(3));
      return;
    case OpKind::kIndexWrite: {
      const bool by_list = base_name(*node) == "index_put" || base_name(*node) == "_index_put_impl";
      if (base_name(*node) == "copy" || node->inputs().size() < 3) return;
      const Fact* index = nullptr;
      for (jit::Value* element : list_elements(node->input(by_list ? 1 : 2))) {
        if (const Fact* found = fact(element)) index = found;
      }
      if (!by_list && node->inputs().size() < 4) return;
      return follow_scatter(node, node->input(0), index, node->input(by_list ? 2 : 3));
    }
    case OpKind::kOneHot:
    case OpKind::kCompare:
    case OpKind::kLogical:
    case OpKind::kNonzero:
    case OpKind::kWhere:
    case OpKind::kMaskedFill:
      return follow_mask(node, kind);
    case OpKind::kConcatenate:
      return follow_concatenate(node);
    case OpKind::kSample:
      if (const Fact* found = fact(node->input(0))) event(EventKind::kSamples, node, remembered(*found));
      return;
    case OpKind::kFresh:
    case OpKind::kMixOther:
    case OpKind::kOther:
      return;
  }
}

void RouterFlow::follow_same(jit::Node* node, OpKind kind) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  Fact result = *found;
  if (kind == OpKind::kCopy) {
    if (result.role == Role::kScore && result.logits == result.base) {
      result.logits = node->output();
      result.logits_dim = result.expert_dim;
    }
    if (result.role == Role::kScore && result.score == result.base && result.score != nullptr) result.score = node->output();
    if (result.aligned) {
      result.parent = result.base;
      result.base = node->output();
    }
  } else if (kind == OpKind::kReshape && result.role == Role::kScore) {
    // A last axis of another size than the experts cuts them into groups, or joins the groups again.
    std::optional<int64_t> last;
    const std::string name = base_name(*node);
    if (name == "view" || name == "reshape" || name == "_unsafe_view") {
      const auto sizes = node->input(1)->node();
      if (sizes->kind() == jit::prim::ListConstruct && !sizes->inputs().empty()) {
        resize_rank(result, static_cast<int64_t>(sizes->inputs().size()));
        last = graph_.constant_int(sizes->inputs().back());
      } else if (const auto list = graph_.constant(node->input(1)); list && list->isIntList() && list->toIntVector().size()) {
        last = list->toIntVector().back();
      }
      if (last.has_value() && result.num_experts.has_value() && *last > 0) result.grouped = *last != *result.num_experts;
      if (last.has_value() && *last == -1 && sizes->kind() == jit::prim::ListConstruct && result.grouped) result.grouped = false;
    } else if (name == "unflatten") {
      result.grouped = true;
    } else if (name == "flatten") {
      const auto start = graph_.constant_int(node->input(1));
      if (start.has_value() && *start >= 0 && result.rank.has_value()) resize_rank(result, *start + 1);
      else if (result.rank.has_value()) result.rank.reset();
      result.grouped = false;
    } else if (name == "unsqueeze" || name == "squeeze" || name == "unflatten" || name == "view_as" || name == "reshape_as") {
      result.rank.reset();
    }
  } else if (kind == OpKind::kMoveAxis) {
    if (result.role == Role::kScore && result.picks.empty()) {
      move_axis(graph_, *node, result);
      result.base = node->output();
      if (result.score == nullptr) {
        result.logits = node->output();
        result.logits_dim = result.expert_dim;
      }
    } else {
      lose_alignment(result);
    }
  } else if (kind == OpKind::kRepeat && result.role != Role::kScore && result.role != Role::kMask &&
             result.role != Role::kStat) {
    lose_alignment(result);
  } else if (kind == OpKind::kRepeat && result.role == Role::kScore && !result.picks.empty()) {
    lose_alignment(result);
  }
  set(node->output(), result);
}

void RouterFlow::follow_part(jit::Node* node, OpKind kind) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  Fact result = *found;
  if (kind == OpKind::kSlice && is_full_range(graph_, *node)) {
    set(node->output(), result);
    return;
  }
  if (kind == OpKind::kSlice && result.aligned) {
    const std::string name = base_name(*node);
    const auto start = graph_.constant(node->input(2));
    const auto end = name == "slice" ? graph_.constant(node->input(3)) : std::nullopt;
    const bool from_start = start.has_value() && (start->isNone() || (start->isInt() && start->toInt() == 0));
    if (result.role == Role::kSlot && result.mixed_at >= 0) {
      // Slots that stood beside others: the part that holds them is the weights again.
      if (from_start != (result.mixed_at == 0)) return;
      result.mixed_at = -1;
    }
    std::optional<int64_t> length;
    if (from_start && end.has_value() && end->isInt()) {
      length = end->toInt();
      if (*length < 0 && result.role == Role::kScore && result.num_experts.has_value()) *length += *result.num_experts;
      if (*length <= 0 || *length == std::numeric_limits<int64_t>::max()) length.reset();
    }
    result.parent = found->base;
    result.base = node->output();
    if (result.role == Role::kScore && result.picks.empty()) {
      if (length.has_value()) {
        const auto dim = graph_.constant_int(node->input(1));
        if (dim.has_value() && *dim != 0) result.num_experts = length;
      }
      if (result.score == nullptr) result.logits = node->output();
      else if (result.score == found->base) {
        result.score = node->output();
        // The logits are cut alike where the model cuts them too; else the whole stays.
      }
    }
    if (result.role == Role::kIds || result.role == Role::kSlot) {
      result.num_slots = length;
      if (result.role == Role::kIds) result.ids = {node->output()};
    }
    set(node->output(), result);
    return;
  }
  if (result.role == Role::kScore && result.picks.empty()) {
    // One row of the tokens, or one expert's column: still scores.
    result.aligned = true;
    result.base = nullptr;
  } else {
    lose_alignment(result);
    result.per_expert = result.per_expert || carries_weights(*found);
  }
  for (jit::Value* output : node->outputs()) set(output, result);
}

void RouterFlow::follow_scoring(jit::Node* node) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  const std::string name = base_name(*node);
  Fact result = derived(*found, node, found->role);
  if (!found->aligned) lose_alignment(result);
  if (found->role == Role::kScore) {
    if (result.score == nullptr && result.scoring.empty()) {
      result.scoring = name;
      result.score = found->picks.empty() ? node->output() : nullptr;
      result.score_dim = result.expert_dim;
      if (!found->picks.empty() && found->scoring.empty()) result.slot_scoring = name;
    } else if (result.score == found->base && result.score != nullptr && !result.biased) {
      result.score = node->output();
    }
  } else if (found->role == Role::kSlot) {
    if (result.slot_scoring.empty()) result.slot_scoring = name;
    result.parent = nullptr;
  } else if (found->role != Role::kStat) {
    return;
  }
  set(node->output(), result);
}

void RouterFlow::meet(jit::Node* node, const Fact& fact) {
  const Fact what = remembered(fact);
  switch (fact.role) {
    case Role::kSlot:
    case Role::kRouted:
      event(EventKind::kAppliesWeights, node, what);
      // One expert's share: the ids were compared with its number.
      if (fact.per_expert && !fact.ids.empty()) event(EventKind::kDispatches, node, what);
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
    if (!divides || left.role != Role::kSlot) merge(result, right);
    if (left.role == Role::kScore) {
      if (!left.aligned || !right.aligned) result.aligned = true;
      result.biased = left.biased && right.biased;
      if (left.score == nullptr && right.score != nullptr) {
        result.score = right.score, result.logits = right.logits, result.scoring = right.scoring;
      }
      if (left.score == nullptr && right.score == nullptr && !left.masked) result.logits = left.logits;
      if (base_name(*node) == "add" && left.score != nullptr) result.biased = true;
    } else if (left.role == Role::kSlot && (!left.aligned || !right.aligned)) {
      lose_alignment(result);
    } else if (left.role == Role::kMask) {
      // A product keeps what both set; a sum of one-hots sets several places.
      result.per_expert = left.per_expert || right.per_expert;
      result.one_hot = multiply && (left.one_hot || right.one_hot);
      result.placed = left.placed || right.placed;
    }
    return result;
  }
  if (pair_is(Role::kScore, Role::kMask)) {
    const Fact& score = of_role(Role::kScore);
    const Fact& mask = of_role(Role::kMask);
    if (mask.placed && !score.picks.empty()) return routed(score, mask, node);
    Fact result = derived(score, node, Role::kScore);
    merge(result, remembered(mask));
    if (score.score == nullptr) result.masked = true;
    result.one_hot = mask.one_hot;
    result.per_expert = mask.per_expert;
    if (!score.picks.empty()) result.parent = score.base;
    return result;
  }
  if (pair_is(Role::kSlot, Role::kMask)) {
    const Fact& slot = of_role(Role::kSlot);
    const Fact& mask = of_role(Role::kMask);
    if (mask.placed) return routed(slot, mask, node);
    Fact result = derived(slot, node, Role::kSlot);
    result.parent = slot.base;
    if (!slot.aligned) lose_alignment(result);
    if (mask.per_expert) {
      Fact part = slot;
      lose_alignment(part);
      part.ids = mask.ids;
      part.per_expert = true;
      return part;
    }
    if (mask.one_hot) {  // weights spread over the experts
      result.role = Role::kScore;
      result.parent = nullptr;
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
    return result;
  }
  if (pair_is(Role::kSlot, Role::kStat)) {
    const Fact& slot = of_role(Role::kSlot);
    Fact result = derived(slot, node, Role::kSlot);
    if (!slot.aligned) lose_alignment(result);
    return result;
  }
  if (pair_is(Role::kSlot, Role::kChosen)) {
    const Fact& slot = of_role(Role::kSlot);
    Fact result = derived(slot, node, Role::kSlot);
    if (!slot.aligned) lose_alignment(result);
    result.nested = slot.nested;
    event(EventKind::kLooksUp, node, remembered(slot));
    return result;
  }
  if (pair_is(Role::kMask, Role::kStat)) {
    Fact result = derived(of_role(Role::kMask), node, Role::kStat);
    return result;
  }
  if (pair_is(Role::kRouted, Role::kStat) || pair_is(Role::kRouted, Role::kMask)) {
    return derived(of_role(Role::kRouted), node, Role::kRouted);
  }
  if (pair_is(Role::kIds, Role::kMask)) {
    const Fact& ids = of_role(Role::kIds);
    Fact result = derived(ids, node, Role::kIds);
    result.parent = ids.base;
    if (!ids.aligned) lose_alignment(result);
    else result.ids = {node->output()};
    return result;
  }
  return std::nullopt;
}

void RouterFlow::follow_elementwise(jit::Node* node, OpKind kind) {
  std::vector<jit::Value*> operands;
  for (jit::Value* input : node->inputs()) {
    if (is_tensor(input)) operands.push_back(input);
  }
  if (operands.empty() || node->outputs().empty()) return;
  const std::string name = base_name(*node);
  const Fact* left = fact(operands[0]);
  const Fact* right = operands.size() > 1 ? fact(operands[1]) : nullptr;
  if (left != nullptr && right != nullptr) {
    const Fact left_fact = *left, right_fact = *right;
    if (auto result = combine(node, left_fact, right_fact, kind)) set(node->output(), *result);
    return;
  }
  const Fact* found = left != nullptr ? left : right;
  if (found == nullptr) return;
  const Fact own = *found;
  const jit::Value* partner = operands.size() > 1 ? operands[left != nullptr ? 1 : 0] : nullptr;
  const bool hidden = partner != nullptr && origins_.is_activation(partner);
  if (hidden && kind == OpKind::kMultiply) {
    meet(node, own);
    // Scores that scale or are scaled by hidden states before any pick may still be logits (a learned temperature).
    if (own.role != Role::kScore || !own.picks.empty() || own.score != nullptr) return;
  }
  if (hidden && own.role == Role::kChosen) return;  // a bias of the chosen expert
  Fact result = derived(own, node, own.role);
  switch (own.role) {
    case Role::kScore:
      if (!own.aligned) lose_alignment(result);
      if (own.score == nullptr) {
        const bool noise = hidden && name != "div";
        if (own.picks.empty()) result.logits = noise || own.masked ? own.logits : node->output();
      } else if (own.score == own.base && !own.biased) {
        const bool shifts = partner != nullptr && (name == "add" || name == "sub");
        if (shifts) result.biased = true;
        else if (own.picks.empty()) result.score = node->output();
        if (!shifts && name == "sqrt") result.scoring = "sqrt" + own.scoring;
      } else if (partner != nullptr && (name == "add" || name == "sub")) {
        result.biased = true;
      }
      break;
    case Role::kSlot:
      if (hidden && name != "div") return;
      if (!own.aligned) lose_alignment(result);
      break;
    case Role::kIds:
      // Arithmetic on ids makes another index.
      // A clamp only keeps an index of experts that have no parameters (identity experts) inside the table.
      result = own;
      if (name == "floor_divide" || name == "div" || name == "remainder" || name == "fmod") result.nested = true;
      lose_alignment(result);
      break;
    case Role::kMask:
    case Role::kStat:
    case Role::kOrder:
    case Role::kChosen:
    case Role::kRouted:
      break;
  }
  set(node->output(), result);
}

void RouterFlow::follow_reduce(jit::Node* node, OpKind kind) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr || node->outputs().empty()) return;
  const Fact own = remembered(*found);
  const std::string name = base_name(*node);
  Fact result = derived(own, node, Role::kStat);
  if (kind == OpKind::kCumulate) {
    set(node->output(), result);
    return;
  }
  if (name == "bincount" || name == "histc") {
    if (own.role == Role::kIds) set(node->output(), result);
    return;
  }
  switch (own.role) {
    case Role::kScore:
      if (own.one_hot && name == "sum" && own.aligned) {
        // Scores where one expert a slot is set: what the slot weighs.
        result.role = Role::kSlot;
        result.one_hot = false;
      } else if (own.per_expert) {
        result = own, result.role = Role::kSlot;
        lose_alignment(result);
      }
      break;
    case Role::kSlot:
      if (!own.aligned) {
        result = own;  // one expert's share of each token
        lose_alignment(result);
      }
      break;
    case Role::kMask: {
      std::optional<int64_t> dim;
      if (node->inputs().size() > 1) {
        const auto dims = list_elements(node->input(1));
        if (!dims.empty()) dim = graph_.constant_int(dims[0]);
      }
      if (name == "sum" || name == "any" || name == "amax") {
        if (!dim.has_value() || *dim == 0) break;
        result.role = Role::kMask;
        result.one_hot = false;
        result.per_expert = own.per_expert;
      }
      break;
    }
    case Role::kRouted:
      if (name == "sum") result.role = Role::kScore, result.aligned = true;
      break;
    case Role::kIds:
    case Role::kStat:
    case Role::kOrder:
    case Role::kChosen:
      break;
  }
  set(node->output(), result);
}

void RouterFlow::follow_pick(jit::Node* node) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  const Fact own = remembered(*found);
  const std::string name = base_name(*node);
  const bool sorts = name == "sort" || name == "argsort" || name == "msort";
  if (own.role == Role::kIds || own.role == Role::kOrder || own.role == Role::kMask) {
    if (!sorts) return;
    Fact order = own;
    lose_alignment(order);
    if (name == "sort") set(node->output(0), order);
    order.role = Role::kOrder;
    set(node->outputs().back(), order);
    return;
  }
  if (own.role != Role::kScore && own.role != Role::kStat && own.role != Role::kSlot) return;
  Pick pick{node, own, std::nullopt, std::nullopt, nullptr, sorts};
  if (name == "topk") {
    pick.k = graph_.constant_int(node->input(1));
    if (node->inputs().size() > 2) pick.dim = graph_.constant_int(node->input(2));
  } else if (name == "sort" || name == "argsort") {
    // (self, dim, descending) or (self, stable, dim, descending)
    for (jit::Value* input : node->inputs().slice(1)) {
      if (input->type()->kind() == c10::TypeKind::IntType) pick.dim = graph_.constant_int(input);
    }
  } else {
    pick.k = 1;
    if (node->inputs().size() > 1) pick.dim = graph_.constant_int(node->input(1));
  }
  const bool only_indices = name == "argmax" || name == "argmin" || name == "argsort";
  pick.indices = node->outputs().back();
  int place = -1;
  for (size_t i = 0; i < picks_.size(); ++i) {
    if (picks_[i].node == node) place = static_cast<int>(i);
  }
  if (place < 0) {
    place = static_cast<int>(picks_.size());
    picks_.push_back(pick);
  } else {
    picks_[place] = pick;
  }
  Fact values = own;
  values.role = Role::kSlot;
  values.aligned = true;
  values.base = node->output(0);
  values.picks = {place};
  values.ids = {pick.indices};
  values.weights.clear();
  values.parent = nullptr;
  values.nested = own.role == Role::kSlot;
  values.one_hot = values.per_expert = false;
  values.mixed_at = -1;
  values.num_slots = pick.k;
  Fact indices = values;
  indices.role = Role::kIds;
  indices.base = pick.indices;
  if (!only_indices) set(node->output(0), values);
  set(pick.indices, indices);
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
  bool hidden = false;
  for (jit::Value* operand : operands) {
    if (const Fact* found = fact(operand)) facts.push_back(*found);
    else if (origins_.is_activation(operand)) hidden = true;
  }
  if (facts.empty()) return;
  // A hidden state that is multiplied by the chosen expert's matrix, weighed or masked.
  if (hidden) {
    for (const Fact& own : facts) meet(node, own);
    return;
  }
  for (const Fact& own : facts) {
    if (own.role == Role::kChosen) event(EventKind::kLooksUp, node, remembered(own));
  }
  if (facts.size() == 2) {
    const Fact left = remembered(facts[0]), right = remembered(facts[1]);
    const Fact* mask = left.role == Role::kMask ? &left : right.role == Role::kMask ? &right : nullptr;
    const Fact* other = mask == &left ? &right : &left;
    if (mask == nullptr) return;
    Fact result = derived(*other, node, other->role);
    merge(result, *mask);
    if (other->role == Role::kScore && other->picks.empty()) {
      result.role = Role::kSlot;  // scores at the chosen experts
    } else if (other->role == Role::kSlot) {
      result.role = Role::kScore;  // weights spread over the experts
      result.ids = mask->ids;
    } else if (other->role == Role::kScore) {
      result.role = Role::kRouted;
      result.aligned = false;
      result.base = nullptr;
      result.weights = other->weights;
    } else if (other->role == Role::kMask) {
      result.role = Role::kMask;
      result.one_hot = false;
    } else {
      return;
    }
    set(node->output(), result);
  }
}

void RouterFlow::follow_gather(jit::Node* node, jit::Value* source, const std::vector<jit::Value*>& indices) {
  const Fact* from = fact(source);
  const Fact* index = nullptr;
  for (jit::Value* value : indices) {
    const Fact* found = fact(value);
    if (found == nullptr) continue;
    if (index == nullptr || found->role == Role::kIds) index = found;
  }
  if (from == nullptr && index == nullptr) return;
  if (index == nullptr) {
    const Fact own = *from;
    if (op_kind(*node) == OpKind::kGather && own.role == Role::kScore && own.picks.empty() && indices.size() == 1 &&
        origins_.of(indices[0]) == Origin::kInput) {
      follow_foreign_ids(node, own, indices[0]);
      return;
    }
    if (own.role == Role::kMask || own.role == Role::kStat) {
      set(node->output(), derived(own, node, own.role));
    } else if (own.role == Role::kSlot || own.role == Role::kIds || own.role == Role::kOrder || !own.picks.empty()) {
      Fact part = own;
      lose_alignment(part);
      set(node->output(), part);
    } else if (own.role == Role::kScore) {
      Fact part = derived(own, node, Role::kScore);  // some tokens' scores
      if (part.score == nullptr) part.logits = node->output();
      set(node->output(), part);
    }
    return;
  }
  const Fact by = remembered(*index);
  if (from != nullptr) {
    const Fact own = *from;
    if (by.role == Role::kIds && own.role == Role::kScore && own.picks.empty()) {
      Fact result = derived(own, node, Role::kSlot);  // the scores of the picked
      merge(result, by);
      result.nested = by.nested;
      result.num_slots = by.num_slots;
      if (!by.aligned) lose_alignment(result);
      set(node->output(), result);
    } else if (by.role == Role::kIds && own.role == Role::kScore) {
      Fact result = derived(own, node, Role::kSlot);
      merge(result, by);
      if (!by.aligned) lose_alignment(result);
      set(node->output(), result);
    } else if (by.role == Role::kIds && own.role == Role::kIds) {
      Fact result = derived(own, node, Role::kIds);
      merge(result, by);
      result.nested = true;
      set(node->output(), result);
    } else {
      Fact part = own;
      merge(part, by);
      lose_alignment(part);
      set(node->output(), part);
    }
    return;
  }
  const Origin origin = origins_.of(source);
  if (by.role == Role::kIds) {
    if (origin == Origin::kParameter) {
      Fact chosen = derived(by, node, Role::kChosen);
      chosen.aligned = by.aligned;
      set(node->output(), chosen);
    } else if (origin == Origin::kActivation && projection_.node == nullptr && op_kind(*node) == OpKind::kGather) {
      Fact weights = derived(by, node, Role::kSlot);  // ids without scores of their own: these may be the weights
      set(node->output(), weights);
    } else if (origin == Origin::kActivation) {
      event(precedes_projection(source) ? EventKind::kChoosesTokens : EventKind::kChoosesOutputs, node, by);
    } else if (origin == Origin::kInput) {
      event(EventKind::kChoosesTokens, node, by);
    }
  } else if (by.role == Role::kOrder || by.role == Role::kMask) {
    if (origin == Origin::kActivation) event(EventKind::kDispatches, node, by);
  }
}

void RouterFlow::follow_scatter(jit::Node* node, jit::Value* target, const Fact* index, jit::Value* source) {
  const Fact* into = fact(target);
  const Fact* what = fact(source);
  if (index == nullptr) {
    if (into != nullptr) set(node->output(), derived(*into, node, into->role));
    return;
  }
  const Fact by = remembered(*index);
  if (by.role == Role::kOrder) {
    if (origins_.is_activation(source)) event(EventKind::kDispatches, node, by);
    return;
  }
  if (by.role != Role::kIds) return;
  if (origins_.is_activation(source) && what == nullptr) {
    event(EventKind::kChoosesTokens, node, by);
    return;
  }
  if (what != nullptr && (what->role == Role::kSlot || what->role == Role::kScore)) {
    Fact dense = derived(*what, node, Role::kScore);
    merge(dense, by);
    dense.ids = by.ids;
    dense.weights.clear();
    dense.num_slots = by.num_slots;
    dense.per_expert = dense.one_hot = false;
    set(node->output(), dense);
  } else if (into != nullptr && into->role == Role::kScore) {
    Fact masked = derived(*into, node, Role::kScore);
    merge(masked, by);
    if (masked.score == nullptr) masked.masked = true;
    set(node->output(), masked);
  } else {
    Fact mask = derived(by, node, Role::kMask);
    mask.aligned = true;
    mask.one_hot = mask.per_expert = false;
    set(node->output(), mask);
  }
}

void RouterFlow::follow_mask(jit::Node* node, OpKind kind) {
  const auto inputs = node->inputs();
  const std::string name = base_name(*node);
  if (kind == OpKind::kOneHot) {
    const Fact* found = fact(inputs[0]);
    if (found == nullptr) return;
    Fact mask = derived(remembered(*found), node, Role::kMask);
    mask.aligned = true;
    mask.one_hot = found->role == Role::kIds;
    mask.placed = found->role == Role::kStat;
    mask.per_expert = false;
    set(node->output(), mask);
    return;
  }
  if (kind == OpKind::kNonzero) {
    const Fact* found = fact(inputs[0]);
    if (found == nullptr || found->role == Role::kStat) return;
    Fact order = remembered(*found);
    lose_alignment(order);
    order.role = Role::kOrder;
    order.aligned = false;
    order.base = nullptr;
    set(node->output(), order);
    return;
  }
  if (kind == OpKind::kCompare) {
    const Fact* left = fact(inputs[0]);
    const Fact* right = inputs.size() > 1 ? fact(inputs[1]) : nullptr;
    const Fact* found = left != nullptr ? left : right;
    if (found == nullptr) return;
    if (right != nullptr && left != nullptr && left->role == Role::kScore) found = right;  // scores against a threshold
    Fact mask = derived(remembered(*found), node, Role::kMask);
    mask.aligned = true;
    mask.one_hot = mask.per_expert = false;
    if (found->role == Role::kIds || found->role == Role::kMask) {
      const jit::Value* other = inputs[left != nullptr ? 1 : 0];
      const bool number = !is_tensor(other) || origins_.of(other) != Origin::kConstant ||
                          (graph_.constant(other).has_value() && graph_.constant(other)->isTensor() &&
                           graph_.constant(other)->toTensor().numel() == 1);
      // A tensor to compare with holds all expert ids (arange); a number is one expert.
      mask.per_expert = number;
      mask.one_hot = !number && found->role == Role::kIds;
    }
    set(node->output(), mask);
    return;
  }
  if (kind == OpKind::kLogical) {
    std::optional<Fact> result;
    for (jit::Value* input : inputs) {
      const Fact* found = is_tensor(input) ? fact(input) : nullptr;
      if (found == nullptr) continue;
      if (!result.has_value()) result = derived(remembered(*found), node, Role::kMask);
      else {
        merge(*result, remembered(*found));
        result->per_expert = result->per_expert || found->per_expert;
      }
    }
    if (result.has_value()) {
      result->aligned = true;
      set(node->output(), *result);
    }
    return;
  }
  // masked_fill(self, mask, value) and where(mask, self, other)
  const bool where = kind == OpKind::kWhere;
  const Fact* mask = fact(inputs[where ? 0 : 1]);
  const Fact* self = fact(inputs[where ? 1 : 0]);
  const Fact* other = fact(inputs[2]);
  const bool hidden = origins_.is_activation(inputs[where ? 1 : 0]) || (where && origins_.is_activation(inputs[2]));
  if (self == nullptr && other == nullptr) {
    if (mask != nullptr && hidden) event(EventKind::kDispatches, node, remembered(*mask));
    else if (mask != nullptr) set(node->output(), derived(remembered(*mask), node, Role::kMask));
    return;
  }
  const Fact own = self != nullptr ? *self : *other;
  Fact result = derived(own, node, own.role);
  if (other != nullptr && self != nullptr) merge(result, *other);
  if (mask != nullptr) {
    if (own.role != Role::kIds) merge(result, remembered(*mask));
    if (own.role == Role::kIds) result.picks.insert(mask->picks.begin(), mask->picks.end());
  }
  if (own.role == Role::kScore) {
    if (own.score == nullptr) result.masked = true;
    if (mask != nullptr && mask->per_expert) result.per_expert = true;
  } else if (own.role == Role::kIds || own.role == Role::kSlot) {
    result.parent = own.base;
    result.ids = own.ids;
    if (!own.aligned) lose_alignment(result);
    else if (own.role == Role::kIds) result.ids = {node->output()};
    if (where && mask != nullptr && mask->per_expert && own.role == Role::kSlot) {
      Fact part = own;
      lose_alignment(part);
      part.per_expert = true;
      result = part;
    }
  } else if (own.role == Role::kChosen || own.role == Role::kRouted) {
    return;
  }
  set(node->output(), result);
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
  bool all_slots = first->role == Role::kSlot || first->role == Role::kIds;
  for (const jit::Value* part : parts) {
    if (const Fact* found = fact(part); found != nullptr && found->role == first->role) {
      merge(result, remembered(*found));
      result.nested = result.nested || found->nested;
      // One slot each, as `ids[:, 0]` and `ids[:, 1]`, makes the slots again.
      if (!found->aligned) all_slots = false;
    }
  }
  // Slots beside scores of experts that are not chosen (shared ones), which carry the projection's facts as well.
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
  if (first->role == Role::kIds || result.role == Role::kSlot) {
    result.num_slots = std::nullopt;
    if (!all_slots) lose_alignment(result);
    else {
      result.aligned = true;
      if (result.role == Role::kIds) result.ids = {node->output()};
      else result.weights = {node->output()};
    }
  }
  set(node->output(), result);
}

}  // namespace moetap::hooks
