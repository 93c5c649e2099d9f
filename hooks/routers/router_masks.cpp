// Transfer functions of RouterFlow for masks made of ids or scores, and for what they fill: comparing, one-hots,
// `where`. See Note [Following a projection].
#include <algorithm>

#include "hooks/graph/known_numbers.h"
#include "hooks/routers/crossed_slots.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_zero(const MethodGraph& graph, const jit::Value* value) {
  const std::string name = base_name(*value->node());
  return constant_number(graph, value) == 0.0 || name.starts_with("zeros") || name == "new_zeros";
}

}  // namespace

void RouterFlow::follow_mask(jit::Node* node, OpKind kind) {
  const auto inputs = node->inputs();
  const std::string name = base_name(*node);
  if (kind == OpKind::kOneHot) {
    const Fact* found = fact(inputs[0]);
    if (found == nullptr) return;
    if (take_as_ids(inputs[0], graph_.constant_int(inputs[1]))) return;
    Fact mask = mask_of(remembered(*found), node);
    mask.one_hot = found->role == Role::kIds && !found->looked_up;
    mask.per_expert = found->looked_up;  // a mask of one place each: see Note [Places of experts]
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
    if (left != nullptr && right != nullptr) join_places(mask, found == left ? *right : *left);
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
      mask.per_expert = (number || found->looked_up) && name == "eq";
      mask.one_hot = !number && found->role == Role::kIds && !found->looked_up;
      mask.ordinal = found->role == Role::kIds && name != "eq" && name != "ne" && name != "isin";
    }
    if (found->role == Role::kIds && !of_score) {
      mask.says = says_of_numbers(*node, inputs[left != nullptr ? 0 : 1], *found);
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
    at::Tensor says;
    bool threshold = false, dropped = false, ordinal = true, over_experts = false, aligned = true;
    for (jit::Value* input : inputs) {
      const Fact* found = is_tensor(input) ? fact(input) : nullptr;
      if (found == nullptr) continue;
      threshold = threshold || found->threshold;
      dropped = dropped || found->dropped;
      ordinal = ordinal && found->ordinal;
      over_experts = over_experts || found->one_hot;
      aligned = aligned && found->aligned;
      if (!result.has_value()) {
        result = derived(remembered(*found), node, Role::kMask);
        says = found->says;
      } else {
        says = at::Tensor();
        merge(*result, remembered(*found));
        join_places(*result, *found);
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
      const bool negates = name == "logical_not" || name == "bitwise_not";
      if (negates) result->per_expert = result->one_hot = false;
      if (says.defined() && (negates || name == "bool")) result->says = negates ? says.logical_not() : says;
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
  const KeptBy kept = kept_by(inputs[where ? 0 : 1], where && self != nullptr);
  // Of masks, what is chosen by a threshold has no ids, whatever else is chosen.
  const auto is_threshold = [](const Fact* of) { return of != nullptr && of->role == Role::kMask && of->threshold; };
  const bool by_threshold =
      self != nullptr && other != nullptr && self->role == other->role && (is_threshold(self) || is_threshold(other));
  const Fact own = by_threshold ? (is_threshold(self) ? *self : *other) : self != nullptr ? *self : *other;
  Fact result = derived(own, node, own.role);
  if (other != nullptr && self != nullptr) {
    merge(result, by_threshold && !is_threshold(self) ? *self : *other);
    result.unsure_slots = result.unsure_slots || other->unsure_slots || self->num_slots != other->num_slots;
  }
  if (mask != nullptr) {
    const bool of_expert = mask->per_expert && own.role == Role::kSlot;
    if (of_expert && are_of_other_slots(own, *mask)) result.rewritten = true;  // see Note [Crossed slots]
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
      result.place_in_run = nullptr;
      if (own.role == Role::kIds) result.ids = {node->output()};
      set(node->output(), result);
      return;
    }
    if (!own.aligned)
      lose_alignment(result);
    else if (own.role == Role::kIds)
      result.ids = {node->output()};
    if (own.role == Role::kIds) {
      const bool both = self != nullptr && other != nullptr;
      write_over_numbers(result, own, both ? nullptr : inputs[self == nullptr ? 1 : 2], node, both ? KeptBy{} : kept);
    } else if (is_zero(graph_, inputs[self == nullptr ? 1 : 2])) {
      result.zero_unless.push_back(kept);
    }
    // Rows of a buffer, those of tokens that are left out replaced. Ids that tell which slots these are tell enough.
    const bool ids_tell = own.role == Role::kIds &&
                          (own.aligned ? result.unused == kept && kept.mask != nullptr : keeps_experts_only(kept, own));
    if (mask != nullptr && mask->dropped && !ids_tell) {
      result.dropped = true;
      if (own.role == Role::kIds && !own.aligned) result.cut = true;
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
  if (by_threshold) result.ids.clear();
  set(node->output(), result);
}

}  // namespace moetap::hooks
