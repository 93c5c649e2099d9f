// Transfer functions of RouterFlow for picks, and for what ids are used for: gathering, scattering, comparing. See
// Note [Following a projection].
#include <algorithm>

#include "hooks/routers/router_axes.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// True if two picks find the same: `argmax` and `max` of one tensor.
bool picks_the_same(const Pick& a, const Pick& b) {
  const auto source = [](const Pick& pick) {
    const jit::Value* value = pick.node->input(0);
    while (op_kind(*value->node()) == OpKind::kCopy) value = value->node()->input(0);
    return value;
  };
  return !a.foreign && a.k == 1 && b.k == 1 && a.dim == b.dim && source(a) == source(b) &&
         base_name(*a.node).ends_with("max") && base_name(*b.node).ends_with("max");
}

}  // namespace

bool picks_other_axis(const Pick& pick) {
  const Fact& source = pick.source;
  if (!pick.dim.has_value() || source.role != Role::kScore) return false;
  const int64_t dim = from_end(*pick.dim, source.rank), experts = from_end(source.expert_dim, source.rank);
  return (dim < 0) == (experts < 0) && dim != experts;
}

void RouterFlow::follow_pick(jit::Node* node) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  const Fact own = remembered(*found);
  const std::string name = base_name(*node);
  const bool sorts = name == "sort" || name == "argsort" || name == "msort";
  if (own.role == Role::kIds || own.role == Role::kOrder || own.role == Role::kMask) {
    if (!sorts || (own.role == Role::kIds && follow_sorted_ids(node, own))) return;
    Fact order = own;
    order.sorted = true;
    lose_alignment(order);
    if (own.role == Role::kMask) order.role = Role::kOrder;  // numbers of tokens, written where a mask is set
    if (name == "sort") set(node->output(0), order);
    order.role = Role::kOrder;
    set(node->outputs().back(), order);
    return;
  }
  if (own.role != Role::kScore && own.role != Role::kStat && own.role != Role::kSlot) return;
  if (own.role == Role::kSlot && sorts && shapes_.of(node->input(0)).rank == 1) {  // tokens, the surest first
    Fact order = own;
    lose_alignment(order);
    order.role = Role::kOrder;
    set(node->outputs().back(), order);
    return;
  }
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
  if (own.role == Role::kScore && !own.picks.empty() && picks_other_axis(pick)) {
    Fact tokens = own;  // the first tokens of each expert, among those that chose it
    lose_alignment(tokens);
    tokens.role = Role::kOrder;
    set(pick.indices, tokens);
    if (only_indices) return;
    Fact weights = own;  // their weights: no tensor over the experts holds them
    weights.role = Role::kSlot;
    weights.parent = nullptr;
    if (own.expert_dim == -2 && from_end(*pick.dim, own.rank) == -1) {
      weights.base = node->output(0);
      weights.aligned = true;
      weights.tokens_of_experts = pick.indices;
    } else {
      lose_alignment(weights);
      weights.cut = true;
    }
    set(node->output(0), weights);
    return;
  }
  int place = -1;
  for (size_t i = 0; i < picks_.size(); ++i) {
    if (picks_[i].node == node || picks_the_same(picks_[i], pick)) place = static_cast<int>(i);
  }
  if (place < 0) {
    place = static_cast<int>(picks_.size());
    picks_.push_back(pick);
  } else if (picks_[place].node == node) {
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
  values.threshold = false;
  Fact indices = values;
  indices.role = Role::kIds;
  indices.base = pick.indices;
  if (!only_indices) set(node->output(0), values);
  set(pick.indices, indices);
}

// True if `index` puts all slots of flat weights into the order of their sorted ids: it takes each of them once.
bool RouterFlow::puts_in_order(const jit::Value* source, const Fact& slots, const jit::Value* index) {
  const auto is_flat = [this](const jit::Value* value, const Fact& fact) {
    return fact.aligned && (fact.flat || shapes_.of(value).rank == 1);
  };
  while (op_kind(*index->node()) == OpKind::kCopy) index = index->node()->input(0);
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
    if (index == nullptr || found->role == Role::kIds) index = found;
  }
  if (from == nullptr && index == nullptr) return;
  if (index == nullptr) {
    const Fact own = *from;
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
      set(node->output(), part);
    } else if (own.role == Role::kScore) {
      Fact part = derived(own, node, Role::kScore);  // some tokens' scores
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
      result.rewritten = own.rewritten;  // the weights are what was taken, wherever that was
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
    } else if (by.role == Role::kOrder && by.aligned && own.aligned && op_kind(*node) == OpKind::kGather &&
               (own.role == Role::kSlot || own.role == Role::kIds)) {
      Fact result = derived(own, node, own.role);  // slots in another order
      if (own.role == Role::kIds) result.ids = {node->output()};
      set(node->output(), result);
    } else {
      Fact part = own;
      merge(part, by);
      lose_alignment(part);
      if (own.role == Role::kSlot && own.aligned && indices.size() == 1 && puts_in_order(source, own, indices[0])) {
        part.permuted = node->output();
        part.order = indices[0];
      } else {
        part.in_pieces = true;
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
    if (origin == Origin::kParameter) {
      Fact chosen = derived(by, node, Role::kChosen);
      chosen.aligned = by.aligned;
      chosen.own = is_own_parameter(source);
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

// The rows of a parameter that an index chooses from, where the graph fixes them.
std::optional<int64_t> RouterFlow::rows_of(const jit::Value* source, const jit::Node& node) const {
  if (base_name(node) == "index_select" && graph_.constant_int(node.input(1)) != 0) return std::nullopt;
  while (op_kind(*source->node()) == OpKind::kCopy) source = source->node()->input(0);
  const auto constant = graph_.constant(source);
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
      if (!into->index) result.ids = {node->output()};
      write_over_numbers(result, *into, what == nullptr ? source : nullptr, node);
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
    Fact mask = mask_of(by, node);
    mask.one_hot = by.num_slots == 1;
    set(node->output(), mask);
  }
}

void RouterFlow::follow_mask(jit::Node* node, OpKind kind) {
  const auto inputs = node->inputs();
  const std::string name = base_name(*node);
  if (kind == OpKind::kOneHot) {
    const Fact* found = fact(inputs[0]);
    if (found == nullptr) return;
    if (take_as_ids(inputs[0], graph_.constant_int(inputs[1]))) return;
    Fact mask = mask_of(remembered(*found), node);
    mask.one_hot = found->role == Role::kIds;
    mask.placed = found->role == Role::kStat;
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
    const bool as_numbers = name == "eq" || name == "ne" || name == "isin";
    const bool an_index = found->role == Role::kIds && found->index && as_numbers;
    if (an_index && (found->rewritten || (found->unknown_numbers && !found->strided)) &&
        take_as_ids(inputs[left != nullptr ? 0 : 1], found->num_experts)) {
      return;
    }
    const bool of_score =
        left != nullptr && right != nullptr && (left->role == Role::kScore || right->role == Role::kScore);
    if (of_score) found = left->role == Role::kScore ? right : left;
    Fact mask = mask_of(remembered(*found), node);
    mask.rewritten = found->rewritten || (an_index && !found->placed && !found->nested);  // with other numbers
    // Scores against one of them, or against a number: all that are as large are chosen.
    const bool alone = !of_score && found->role == Role::kScore;
    const Fact& scores = left == nullptr || (of_score && left->role != Role::kScore) ? *right : *left;
    // So are those whose rank, counted by comparing all pairs, is below a number.
    const bool in_order = name != "eq" && name != "ne";
    const bool of_rank = found->role == Role::kMask && found->threshold && !found->column && in_order;
    mask.threshold = of_rank || ((of_score || alone) && scores.aligned && scores.base != nullptr && scores.ids.empty());
    mask.weights.clear();
    if (mask.threshold) {
      mask.ids.clear();
      mask.nested = false;
    }
    // Places in an expert's queue against its capacity.
    mask.dropped = !mask.threshold && found->role == Role::kStat && !found->picks.empty();
    if (found->role == Role::kIds || found->role == Role::kMask) {
      const jit::Value* other = inputs[left != nullptr ? 1 : 0];
      const bool number = !is_tensor(other) || origins_.of(other) != Origin::kConstant ||
                          (graph_.constant(other).has_value() && graph_.constant(other)->isTensor() &&
                           graph_.constant(other)->toTensor().numel() == 1);
      // Compared with a tensor, it is with all expert ids (`arange`); compared with a number, with one expert.
      mask.per_expert = number && name == "eq";
      mask.one_hot = !number && found->role == Role::kIds;
      mask.ordinal = found->role == Role::kIds && name != "eq" && name != "ne" && name != "isin";
    }
    set(node->output(), mask);
    return;
  }
  if (kind == OpKind::kLogical && name.starts_with("logical_") == false && name != "bool") {
    // Of ids, the bits.
    for (jit::Value* input : inputs) {
      const Fact* found = is_tensor(input) ? fact(input) : nullptr;
      if (found != nullptr && found->role == Role::kIds) return follow_numbers(node, Fact(*found), input);
    }
  }
  if (kind == OpKind::kLogical) {
    std::optional<Fact> result;
    bool threshold = false, dropped = false, ordinal = true, over_experts = false, aligned = true;
    for (jit::Value* input : inputs) {
      const Fact* found = is_tensor(input) ? fact(input) : nullptr;
      if (found == nullptr) continue;
      threshold = threshold || found->threshold;
      dropped = dropped || found->dropped;
      ordinal = ordinal && found->ordinal;
      over_experts = over_experts || found->one_hot;
      aligned = aligned && found->aligned;
      if (!result.has_value())
        result = derived(remembered(*found), node, Role::kMask);
      else {
        merge(*result, remembered(*found));
        result->per_expert = result->per_expert || found->per_expert;
      }
    }
    if (result.has_value()) {
      // Experts, and those whose queue has room.
      if (name.find("and") != std::string::npos && dropped && over_experts && aligned) result->kept = node->output();
      result->aligned = true;
      result->threshold = threshold;
      result->dropped = dropped;
      result->ordinal = ordinal;
      if (threshold) result->ids.clear();
      // All slots but those of one expert.
      if (name == "logical_not" || name == "bitwise_not") result->per_expert = result->one_hot = false;
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
    if (mask != nullptr && hidden)
      event(EventKind::kDispatches, node, remembered(*mask));
    else if (mask != nullptr)
      set(node->output(), derived(remembered(*mask), node, Role::kMask));
    return;
  }
  const Fact own = self != nullptr ? *self : *other;
  Fact result = derived(own, node, own.role);
  if (other != nullptr && self != nullptr) {
    merge(result, *other);
    result.unsure_slots = result.unsure_slots || other->unsure_slots || self->num_slots != other->num_slots;
  }
  if (mask != nullptr) {
    if (own.role != Role::kIds) merge(result, remembered(*mask));
    if (own.role == Role::kIds) result.picks.insert(mask->picks.begin(), mask->picks.end());
  }
  if (own.role == Role::kScore) {
    const bool relative = mask != nullptr && mask->relative;
    if (own.score == nullptr && (relative || !result.picks.empty())) result.masked = true;
    if (!relative) change_scores(result, own, node->output());  // experts that are switched off, whatever is picked
    if (mask != nullptr && mask->per_expert) result.per_expert = true;
    if (mask != nullptr && mask->threshold) result.threshold = true;
  } else if (own.role == Role::kIds || own.role == Role::kSlot) {
    if (own.role == Role::kIds && !own.placed && (self == nullptr || other == nullptr))
      note_written_ids(inputs[self == nullptr ? 1 : 2]);
    result.parent = own.base;
    result.ids = own.ids;
    if (self != nullptr && other != nullptr && self->role == other->role && self->place >= 0 && other->place >= 0) {
      // One slot or another: a selection of its own.
      result.aligned = true;
      result.changed = result.flat = false;
      result.parent = nullptr;
      result.base = node->output();
      result.num_slots = 1;
      result.place = -1;
      if (own.role == Role::kIds) result.ids = {node->output()};
      set(node->output(), result);
      return;
    }
    // Rows of a buffer, those of tokens that are left out replaced.
    if (own.role == Role::kIds && !own.aligned && mask != nullptr && mask->dropped) result.cut = true;
    if (mask != nullptr && mask->dropped) result.dropped = true;
    if (!own.aligned)
      lose_alignment(result);
    else if (own.role == Role::kIds)
      result.ids = {node->output()};
    if (own.role == Role::kIds) {
      const bool both = self != nullptr && other != nullptr;
      write_over_numbers(result, own, both ? nullptr : inputs[self == nullptr ? 1 : 2], node);
    }
    if (own.order != nullptr) change_in_order(result, node->output());
    if (where && self != nullptr && mask != nullptr && mask->per_expert && own.role == Role::kSlot) {
      Fact part = own;
      part.in_pieces = true;
      lose_alignment(part);
      part.per_expert = true;
      part.rewritten = result.rewritten;
      result = part;
    }
  } else if (own.role == Role::kChosen || own.role == Role::kRouted) {
    return;
  }
  set(node->output(), result);
}

}  // namespace moetap::hooks
