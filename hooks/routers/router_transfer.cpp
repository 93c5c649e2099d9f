// Transfer functions of RouterFlow for operators of one followed value. See Note [Following a projection].
#include "hooks/routers/router_axes.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// True for a cast to bool: `to(x, dtype)`, `to(x, device, dtype)`.
bool casts_to_bool(const MethodGraph& graph, const jit::Node& node) {
  if (base_name(node) != "to") return false;
  for (size_t i = 1; i < node.inputs().size() && i < 3; ++i) {
    if (node.input(i)->type()->kind() != c10::TypeKind::IntType) continue;
    return graph.constant_int(node.input(i)) == static_cast<int64_t>(at::kBool);
  }
  return false;
}

// True for a `flatten` that joins the experts' axis with tokens': neither of them is an axis any more.
bool joins_experts(const MethodGraph& graph, const jit::Node& node, const Fact& fact) {
  if (fact.grouped || !fact.picks.empty() || !fact.rank || node.inputs().size() < 3) return false;
  const auto start = graph.constant_int(node.input(1)), end = graph.constant_int(node.input(2));
  if (!start || !end) return false;
  const int64_t first = from_end(*start, fact.rank), last = from_end(*end, fact.rank);
  const int64_t experts = from_end(fact.expert_dim, fact.rank);
  return first < last && first <= experts && experts <= last;
}

// True for a `squeeze` of the last dimension, of size 1, of logits with the experts before it.
bool drops_last_dimension(const MethodGraph& graph, const jit::Node& node, const Fact& fact) {
  if (base_name(node) != "squeeze" || node.inputs().size() < 2 || fact.expert_dim >= -1) return false;
  const auto dim = graph.constant_int(node.input(1));
  return dim && from_end(*dim, fact.rank) == -1 && fact.picks.empty() && fact.score == nullptr && fact.aligned;
}

// True if the axes that change their places are known without the rank. Else `keeps_token_order` takes it to be small.
bool moves_known_axes(const MethodGraph& graph, const jit::Node& node) {
  const std::string name = base_name(node);
  if (name != "transpose" && name != "swapaxes" && name != "swapdims" && name != "movedim" && name != "moveaxis") {
    return true;  // permute names all, the others are of two
  }
  for (size_t i = 1; i < node.inputs().size() && i < 3; ++i) {
    const auto dim = graph.constant_int(node.input(i));
    if (!dim || *dim >= 0) return false;
  }
  return true;
}

// The dimension that a reduction is over, where it is over one.
std::optional<int64_t> only_dimension(const MethodGraph& graph, const jit::Node& node) {
  const auto dims = node.inputs().size() > 1 ? graph.constant_ints(node.input(1)) : std::nullopt;
  return dims && dims->size() == 1 ? dims->front() : std::nullopt;
}

// True for a sum over one dimension that is neither the first, of tokens, nor the last, of experts.
bool sums_slots(const MethodGraph& graph, const jit::Node& node, KnownShapes& shapes) {
  const auto dim = only_dimension(graph, node);
  if (!dim || *dim == 0) return false;
  const auto rank = shapes.of(node.input(0)).rank;
  return from_end(*dim, rank) != -1 && (*dim < 0 || rank.has_value() || *dim == 1);
}

}  // namespace

void RouterFlow::visit(jit::Node* node) {
  if (node->kind() == jit::prim::Return) return visit_return(node);
  const OpKind kind = op_kind(*node);
  const bool from_list =
      !node->inputs().empty() && !is_tensor(node->input(0)) && node->kind() == jit::aten::__getitem__;
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
      if (base_name(*node) == "copy") {  // `copy_`: the target holds what the source does
        if (const Fact* source = fact(node->input(1)))
          set(node->output(), derived(*source, node, source->role));
        else if (const Fact* target = fact(node->input(0)); target != nullptr && target->role == Role::kIds)
          note_written_ids(node->input(1));
        return;
      }
      if (node->inputs().size() < 3) return;
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
      if (const std::string name = base_name(*node); name == "pad" || name == "constant_pad_nd")
        return follow_pad(node);
      return follow_concatenate(node);
    case OpKind::kSample:
      return follow_draw(node);
    case OpKind::kMixOther:
      return follow_norm(node);
    case OpKind::kFresh:
    case OpKind::kOther:
      return;
  }
}

void RouterFlow::follow_same(jit::Node* node, OpKind kind) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  if (kind == OpKind::kMoveAxis) return follow_move(node, *found);
  if (kind == OpKind::kCopy && casts_to_bool(graph_, *node) && carries_weights(*found)) {
    set(node->output(), mask_of(remembered(*found), node));  // where the weights are not zero
    return;
  }
  Fact result = *found;
  result.in_pieces = result.in_pieces || kind == OpKind::kRepeat;
  if (kind == OpKind::kCopy) {
    if (result.role == Role::kScore && result.logits == result.base) {
      result.logits = node->output();
      result.logits_dim = result.expert_dim;
    }
    if (result.role == Role::kScore && result.score == result.base && result.score != nullptr)
      result.score = node->output();
    if (result.aligned && !result.flat) {
      result.parent = result.base;
      result.base = node->output();
    }
  } else if (kind == OpKind::kReshape && (result.role == Role::kIds || result.role == Role::kSlot)) {
    const std::string name = base_name(*node);
    if (name == "flatten" || name == "ravel")
      result.flat = true;
    else if (name == "view" || name == "reshape")
      result.flat = list_elements(node->input(1)).size() == 1;
    // The one slot of each token gets a dimension, before the tokens or behind them.
    const auto dim = name == "unsqueeze" ? graph_.constant_int(node->input(1)) : std::nullopt;
    if (dim && result.num_slots == 1 && shapes_.of(node->input(0)).rank == 1) result.expert_dim = from_end(*dim, 2);
  } else if (kind == OpKind::kReshape && result.role == Role::kScore) {
    // A last axis of another size than the experts cuts them into groups, or joins the groups again.
    std::optional<int64_t> last;
    const std::string name = base_name(*node);
    if (name == "view" || name == "reshape" || name == "_unsafe_view") {
      const auto sizes = node->input(1)->node();
      if (sizes->kind() == jit::prim::ListConstruct && !sizes->inputs().empty()) {
        resize_rank(result, static_cast<int64_t>(sizes->inputs().size()));
        last = graph_.constant_int(sizes->inputs().back());
      } else if (const auto list = graph_.constant(node->input(1));
                 list && list->isIntList() && list->toIntVector().size()) {
        last = list->toIntVector().back();
      }
      if (last.has_value() && result.num_experts.has_value() && *last > 0)
        result.grouped = *last != *result.num_experts;
      if (last.has_value() && *last == -1 && sizes->kind() == jit::prim::ListConstruct && result.grouped)
        result.grouped = false;
    } else if (name == "unflatten") {
      result.grouped = true;
    } else if (name == "flatten") {
      const auto start = graph_.constant_int(node->input(1));
      if (joins_experts(graph_, *node, result)) result.merged = true;
      if (start.has_value() && *start >= 0 && result.rank.has_value())
        resize_rank(result, *start + 1);
      else if (result.rank.has_value())
        result.rank.reset();
      if (result.grouped && result.score != nullptr && result.score == result.base) {  // over all experts again
        result.score = node->output();
        if (result.aligned) result.base = node->output();
      }
      result.grouped = false;
    } else if (drops_last_dimension(graph_, *node, result)) {
      result.rank = result.rank ? std::optional(*result.rank - 1) : std::nullopt;
      ++result.expert_dim;
      result.base = node->output();
      change_scores(result, *found, node->output());
    } else if (name == "unsqueeze" || name == "squeeze" || name == "unflatten" || name == "view_as" ||
               name == "reshape_as") {
      result.rank.reset();
    }
    // What was computed in groups is scores over all experts from here on, not before.
    const Fact* computed = found->grouped && !result.grouped && result.aligned ? fact(result.base) : nullptr;
    if (computed != nullptr && computed->grouped && result.logits == result.base) {
      result.logits = result.base = node->output();
      result.logits_dim = result.expert_dim;
    }
  } else if (kind == OpKind::kRepeat && result.role != Role::kScore && result.role != Role::kMask &&
             result.role != Role::kStat) {
    lose_alignment(result);
  } else if (kind == OpKind::kRepeat && result.role == Role::kScore && !result.picks.empty()) {
    lose_alignment(result);
  }
  set(node->output(), result);
}

// Values that are laid out in another way. Where the tokens keep their order only the experts' axis moves.
void RouterFlow::follow_move(jit::Node* node, Fact result) {
  if (turns_elements(*node)) return follow_reorder(node, result);
  result.in_pieces = true;
  if (const auto rank = shapes_.of(node->input(0)).rank) result.rank = rank;
  if (result.role == Role::kRouted && result.aligned) {
    move_axis(graph_, *node, result);
    if (!keeps_order_beside_slots(graph_, *node, *fact(node->input(0)))) lose_alignment(result);
    if (result.aligned) result.base = node->output();
    set(node->output(), result);
    return;
  }
  const bool in_order = keeps_token_order(graph_, *node, result);
  const bool has_known_axes = result.rank.has_value() || moves_known_axes(graph_, *node);
  const bool over_experts = result.role == Role::kScore;
  if (over_experts || ((result.role == Role::kIds || result.role == Role::kSlot) && result.aligned && in_order)) {
    if (!in_order && !result.picks.empty()) {
      lose_alignment(result);
    } else {
      move_axis(graph_, *node, result);
      result.turned = result.turned || !in_order || !has_known_axes;
      if (!in_order && result.score != nullptr) result.logits = result.score = nullptr;  // they keep another order
      if (result.aligned) result.base = node->output();
      if (result.role == Role::kIds) result.ids = {node->output()};
      change_scores(result, result, node->output());
    }
  } else {
    lose_alignment(result);
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
      if (own.picks.empty() && own.score == nullptr && pools_tokens(*node, result)) {
        result.role = Role::kScore;
        change_scores(result, own, node->output());
      } else if (own.one_hot && name == "sum" && own.aligned) {
        // Scores that are masked to one expert for each slot: their sum is the slot's weight.
        result.role = Role::kSlot;
        result.one_hot = false;
      } else if (own.per_expert) {
        result = own, result.role = Role::kSlot;
        lose_alignment(result);
      } else if (!own.picks.empty() && name == "sum" && sums_slots(graph_, *node, shapes_)) {
        result.role = Role::kScore;  // weights that were spread over the experts for each slot
        result.aligned = true;
        result.expert_dim = -1;
      }
      break;
    case Role::kSlot:
      if (!own.aligned) {
        result = own;  // one expert's share of each token
        lose_alignment(result);
        result.in_pieces = true;
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
    case Role::kRouted: {
      // Over the places: dense weights again. Over the slots, which lie before the tokens: still spread.
      const auto dim = only_dimension(graph_, *node);
      if (name != "sum" || !dim) break;
      const auto rank = own.rank ? own.rank : shapes_.of(node->input(0)).rank;
      const int64_t summed = from_end(*dim, rank);
      result.aligned = true;
      result.rank.reset();
      if (summed == own.expert_dim + 1 || (summed > 0 && !rank && own.expert_dim == -2)) {
        result.role = Role::kScore;
        result.expert_dim = -1;
      } else {
        result.role = Role::kRouted;
        if (summed < 0 && summed > own.expert_dim) ++result.expert_dim;
      }
      break;
    }
    case Role::kChosen:
      if (own.own && name == "sum") {  // the score of the picked expert
        result.role = Role::kSlot;
        result.aligned = true;
        result.num_slots = 1;
      } else if (weighs_by_vectors(own, *node->input(0)->node())) {
        result = weights_of_vectors(result);
      }
      break;
    case Role::kIds:
    case Role::kStat:
    case Role::kOrder:
      break;
  }
  set(node->output(), result);
}

// True if scores are averaged or summed over tokens, not over experts; updates where the experts lie.
bool RouterFlow::pools_tokens(const jit::Node& node, Fact& fact) {
  const auto rank = shapes_.of(node.input(0)).rank;
  if (node.inputs().size() < 3 || !rank) return false;
  const auto dims = graph_.constant_ints(node.input(1));
  const auto keeps = graph_.constant(node.input(2));
  if (!dims || dims->empty() || !keeps || !keeps->isBool()) return false;
  const int64_t experts = from_end(fact.expert_dim, rank);
  int64_t behind = 0;
  for (const auto& dim : *dims) {
    if (!dim || from_end(*dim, rank) == experts) return false;
    behind += from_end(*dim, rank) > experts ? 1 : 0;
  }
  const bool removed = !keeps->toBool();
  fact.expert_dim = removed ? experts + behind : experts;
  fact.rank = removed ? *rank - static_cast<int64_t>(dims->size()) : *rank;
  return true;
}

}  // namespace moetap::hooks
