// Transfer functions of RouterFlow for what indices choose, and for what is written by them: gathering, scattering. See
// Note [Following a projection].
#include <algorithm>

#include "hooks/routers/crossed_slots.h"
#include "hooks/routers/picked_indices.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// Note [Places of experts]
// A table of the model may say where each expert lies: redundant copies, another order, experts of one process. What is
// looked up there are no other ids but an index of the same experts, in another bank, so the ids from before the table
// are reported. Weights that are spread over the places are no weights over the experts: those of the slots are
// reported.
Fact in_table(const Fact& ids) {
  Fact places = ids;
  lose_alignment(places);
  places.looked_up = places.unknown_numbers = true;
  places.numbers = at::Tensor();
  return places;
}

// True for a parameter of `dim` dimensions.
bool has_dimensions(const MethodGraph& graph, const jit::Value* parameter, int64_t dim) {
  const auto constant = graph.constant(without_copies(parameter));
  return constant && constant->isTensor() && constant->toTensor().defined() && constant->toTensor().dim() == dim;
}

}  // namespace

// True if `index` puts all slots of flat weights into the order of their sorted ids: it takes each of them once.
bool RouterFlow::puts_in_order(const jit::Value* source, const Fact& slots, const jit::Value* index) {
  const auto is_flat = [this](const jit::Value* value, const Fact& fact) {
    return fact.aligned && (fact.flat || shapes_.of(value).rank == 1);
  };
  index = without_copies(index);
  const jit::Node& sort = *index->node();
  const std::string name = base_name(sort);
  if ((name != "sort" && name != "argsort") || index != sort.outputs().back()) return false;
  const Fact* ids = fact(sort.input(0));
  return ids != nullptr && ids->role == Role::kIds && is_flat(sort.input(0), *ids) && is_flat(source, slots);
}

void RouterFlow::follow_gather(jit::Node* node, jit::Value* source, const std::vector<jit::Value*>& indices) {
  const Fact* from = fact(source);
  const Fact* index = nullptr;
  for (jit::Value* value : indices) {
    const Fact* found = fact(value);
    if (found == nullptr) continue;
    const bool ids_already = index != nullptr && index->role == Role::kIds && index->aligned;
    if (index == nullptr || (found->role == Role::kIds && !ids_already)) index = found;
  }
  if (from == nullptr && index == nullptr) return;
  if (index == nullptr) {
    Fact own = *from;
    const bool slots = own.role == Role::kIds || own.role == Role::kSlot;
    if (slots && op_kind(*node) == OpKind::kGather && are_picked(indices[0])) {  // some of the slots, by other scores
      lose_alignment(own);
      own.in_pieces = own.rewritten = true;
      set(node->output(), own);
      return;
    }
    if (follow_slots_in_order(node, own, indices)) return;
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
      part.in_pieces = true;
      if (indices.size() == 1 && keeps_experts_only(kept_by(indices[0], true), own)) replace_unused(part, own, {});
      set(node->output(), part);
    } else if (own.role == Role::kScore) {
      Fact part = derived(own, node, Role::kScore);  // some tokens' scores
      part.turned = true;
      // Scores of candidates that others have picked: what is picked from them is a place among these.
      const bool of_candidates = op_kind(*node) == OpKind::kGather && origins_.is_activation(indices[0]);
      part.grouped = own.grouped || of_candidates;
      if (part.score == nullptr) part.logits = node->output();
      set(node->output(), part);
    }
    return;
  }
  const Fact by = remembered(*index);
  if (from == nullptr && by.role == Role::kIds && indices.size() == 1 &&
      take_as_ids(indices[0], rows_of(source, *node))) {
    return;
  }
  if (from != nullptr) {
    const Fact own = *from;
    if (by.role == Role::kIds && own.role == Role::kScore && own.picks.empty()) {
      Fact result = derived(own, node, Role::kSlot);  // the scores of the picked
      merge(result, by);
      result.nested = by.nested;
      result.place = by.place;
      result.place_in_run = by.place_in_run;
      result.rewritten = own.rewritten;  // the weights are what was taken, wherever that was
      result.num_slots = by.num_slots;
      if (!by.aligned && by.place < 0) lose_alignment(result);  // those of one slot are whole
      set(node->output(), result);
    } else if (by.role == Role::kIds && own.role == Role::kScore) {
      Fact result = derived(own, node, Role::kSlot);
      merge(result, by);
      if (!by.aligned) lose_alignment(result);
      set(node->output(), result);
    } else if (own.looked_up && by.role == Role::kIds) {
      set(node->output(), own);  // one of several places of each expert
    } else if (by.role == Role::kIds && own.role == Role::kIds) {
      Fact result = derived(own, node, Role::kIds);
      merge(result, by);
      result.nested = true;
      set(node->output(), result);
    } else if (by.role == Role::kOrder && by.aligned && own.aligned && op_kind(*node) == OpKind::kGather &&
               (own.role == Role::kSlot || own.role == Role::kIds)) {
      Fact result = derived(own, node, own.role);  // slots in another order
      if (own.role == Role::kIds) result.ids = {node->output()};
      set(node->output(), result);
    } else {
      Fact part = own;
      merge(part, by);
      lose_alignment(part);
      const bool of_expert = by.per_expert && own.role == Role::kSlot;
      if (of_expert && are_of_other_slots(own, by)) part.rewritten = true;  // see Note [Crossed slots]
      if (own.role == Role::kSlot && own.aligned && indices.size() == 1 && puts_in_order(source, own, indices[0])) {
        part.permuted = node->output();
        part.order = indices[0];
      } else {
        part.in_pieces = true;
      }
      if (own.role == Role::kIds && indices.size() == 1 && keeps_experts_only(kept_by(indices[0], true), own)) {
        replace_unused(part, own, {});
      }
      const bool of_scores = own.role == Role::kScore && own.picks.empty();
      part.pairs = own.pairs || (of_scores && by.role == Role::kOrder && by.threshold);
      // Places of the tokens that fit in: no weight tells which these are.
      if (own.role == Role::kIds && own.placed && by.role == Role::kMask && by.dropped) part.cut = true;
      set(node->output(), part);
    }
    return;
  }
  const Origin origin = origins_.of(source);
  if (by.role == Role::kIds && base_name(*source->node()) == "eye") {  // rows of the identity
    Fact mask = mask_of(by, node);
    mask.one_hot = true;
    set(node->output(), mask);
    return;
  }
  if (by.role == Role::kIds) {
    if (is_table_of_ids(source)) {
      set(node->output(), in_table(by));
    } else if (origin == Origin::kParameter) {
      Fact chosen = derived(by, node, Role::kChosen);
      chosen.aligned = by.aligned;
      chosen.own = is_own_parameter(source);
      chosen.vectors = !chosen.own && has_dimensions(graph_, source, 2);
      chosen.numbers_of_experts = has_dimensions(graph_, source, 1);
      set(node->output(), chosen);
    } else if (origin == Origin::kActivation && op_kind(*node) == OpKind::kGather &&
               (projection_.node == nullptr || (by.aligned && shapes_.of(source).last == by.num_experts))) {
      // Ids without scores of their own, or weighed by those of another projection: these may be the weights.
      Fact weights = derived(by, node, Role::kSlot);
      if (projection_.node != nullptr) weights.score = nullptr, weights.scoring = weights.slot_scoring = "other";
      set(node->output(), weights);
    } else if (origin == Origin::kActivation) {
      event(precedes_projection(source) ? EventKind::kChoosesTokens : EventKind::kChoosesOutputs, node, by);
    } else if (origin == Origin::kInput) {
      event(EventKind::kChoosesTokens, node, by);
    }
  } else if (by.role == Role::kOrder || by.role == Role::kMask) {
    if (origin == Origin::kActivation) {
      event(EventKind::kDispatches, node, by);
    } else if (origin == Origin::kConstant) {  // numbers of tokens
      Fact tokens = by;
      tokens.role = Role::kOrder;
      lose_alignment(tokens);
      set(node->output(), tokens);
    }
  }
}

// True for a buffer or a constant of integers: numbers of experts' copies, of their places, of what they have.
bool RouterFlow::is_table_of_ids(const jit::Value* source) const {
  while (op_kind(*source->node()) == OpKind::kCopy || op_kind(*source->node()) == OpKind::kReshape) {
    source = source->node()->input(0);
  }
  const auto constant = graph_.constant(source);
  return constant && constant->isTensor() && constant->toTensor().defined() && constant->toTensor().dim() > 0 &&
         at::isIntegralType(constant->toTensor().scalar_type(), /*includeBool=*/false);
}

// The rows of a parameter that an index chooses from, where the graph fixes them.
std::optional<int64_t> RouterFlow::rows_of(const jit::Value* source, const jit::Node& node) const {
  if (base_name(node) == "index_select" && graph_.constant_int(node.input(1)) != 0) return std::nullopt;
  const auto constant = graph_.constant(without_copies(source));
  if (!constant || !constant->isTensor() || !constant->toTensor().defined()) return std::nullopt;
  return constant->toTensor().dim() < 1 ? std::nullopt : std::optional(constant->toTensor().size(0));
}

// True for the parameter that the hidden state was projected by, seen through copies and other layouts.
bool RouterFlow::is_own_parameter(const jit::Value* value) const {
  if (projection_.parameter == nullptr) return false;
  const auto root = [](const jit::Value* of) {
    while (op_kind(*of->node()) == OpKind::kCopy || op_kind(*of->node()) == OpKind::kMoveAxis)
      of = of->node()->input(0);
    return of;
  };
  const jit::Value *own = root(projection_.parameter), *other = root(value);
  if (own == other) return true;
  const auto path = graph_.attribute_path(own);
  return !path.empty() && path == graph_.attribute_path(other);
}

void RouterFlow::follow_scatter(jit::Node* node, jit::Value* target, const Fact* index, jit::Value* source) {
  const Fact* into = fact(target);
  const Fact* what = fact(source);
  if (index == nullptr) {
    if (into == nullptr) return;
    Fact result = derived(*into, node, into->role);
    if (into->order != nullptr) change_in_order(result, node->output());
    set(node->output(), result);
    return;
  }
  const Fact by = remembered(*index);
  if (by.role == Role::kOrder) {
    if (origins_.is_activation(source)) event(EventKind::kDispatches, node, by);
    return;
  }
  if (by.role == Role::kMask && into != nullptr) {  // some values are overwritten
    if (into->role == Role::kIds && what == nullptr) note_written_ids(source);
    Fact result = derived(*into, node, into->role);
    if (result.role == Role::kIds) {
      if (into->aligned) result.ids = {node->output()};
      const auto masks = base_name(*node) == "scatter" ? std::vector<jit::Value*>{} : list_elements(node->input(1));
      const KeptBy kept = masks.size() == 1 ? kept_by(masks[0], false) : KeptBy{};
      write_over_numbers(result, *into, what == nullptr ? source : nullptr, node, kept);
    }
    if (into->order != nullptr) change_in_order(result, node->output());
    set(node->output(), result);
    return;
  }
  if (by.role == Role::kStat && what == nullptr && into == nullptr) {  // a one-hot of places in an expert's queue
    Fact mask = mask_of(by, node);
    mask.placed = true;
    set(node->output(), mask);
    return;
  }
  if (by.role != Role::kIds) return;
  if (origins_.is_activation(source) && what == nullptr) {
    // Tokens that are written to places in the experts' queues, or by their numbers.
    event(by.placed ? EventKind::kDispatches : EventKind::kChoosesTokens, node, by);
    return;
  }
  if (what != nullptr && what->role == Role::kSlot && by.looked_up) {  // see Note [Places of experts]
    Fact spread = *what;
    lose_alignment(spread);
    spread.in_pieces = spread.per_expert = true;
    merge(spread, by);
    set(node->output(), spread);
  } else if (what != nullptr && (what->role == Role::kSlot || what->role == Role::kScore)) {
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
    Fact mask = mask_of(by, node);
    mask.one_hot = by.num_slots == 1;
    set(node->output(), mask);
  }
}

}  // namespace moetap::hooks
