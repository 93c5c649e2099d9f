// Transfer functions of RouterFlow for picks. See Note [Following a projection].
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
  pick.indices = node->outputs().back();
  const bool is_largest = (name == "max" || name == "min") && node->outputs().size() == 2;
  if (own.role == Role::kStat && is_largest && pick.indices->uses().empty()) {  // as `amax`: nothing is picked
    set(node->output(0), derived(own, node, Role::kStat));
    return;
  }
  const bool only_indices = name == "argmax" || name == "argmin" || name == "argsort";
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
  values.mixed_at = values.place = -1;
  values.place_in_run = nullptr;
  values.num_slots = pick.k;
  values.threshold = false;
  Fact indices = values;
  indices.role = Role::kIds;
  indices.base = pick.indices;
  if (!only_indices) set(node->output(0), values);
  set(pick.indices, indices);
}

// Experts that are drawn by their scores are chosen as those that are picked: what becomes of them tells whether they
// are experts or the next token.
void RouterFlow::follow_draw(jit::Node* node) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  const Fact own = remembered(*found);
  event(EventKind::kSamples, node, own);
  if (base_name(*node) != "multinomial" || own.role != Role::kScore || !own.picks.empty()) return;
  Pick pick{node, own, graph_.constant_int(node->input(1)), -1, node->output()};
  if (picks_other_axis(pick)) return;
  const auto known =
      std::find_if(picks_.begin(), picks_.end(), [&](const Pick& earlier) { return earlier.node == node; });
  const int place = static_cast<int>(known - picks_.begin());
  if (known == picks_.end()) picks_.push_back(pick);
  Fact ids = own;
  ids.role = Role::kIds;
  ids.aligned = true;
  ids.base = node->output();
  ids.ids = {node->output()};
  ids.picks = {place};
  ids.num_slots = pick.k;
  set(node->output(), ids);
}

}  // namespace moetap::hooks
