// Transfer functions of RouterFlow for pieces of a followed value: ranges, places, parts. See
// Note [Following a projection].
#include <limits>

#include "hooks/routers/router_axes.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// The value, and all that are the same behind slices that leave nothing out: `x[:, :2]` slices `x[:]`.
std::vector<const jit::Value*> behind_full_ranges(const MethodGraph& graph, const jit::Value* value) {
  while (is_full_range(graph, *value->node())) value = value->node()->input(0);
  std::vector<const jit::Value*> values = {value};
  for (size_t i = 0; i < values.size(); ++i) {
    for (const auto& use : values[i]->uses()) {
      if (is_full_range(graph, *use.user)) values.push_back(use.user->output(0));
    }
  }
  return values;
}

// True for a slice of one place if there is such a slice for each expert.
bool is_expert_column(const MethodGraph& graph, const jit::Node& node, std::optional<int64_t> num_experts) {
  if (base_name(node) != "slice" || !num_experts.has_value()) return false;
  const auto dim = graph.constant_int(node.input(1));
  std::set<int64_t> starts;
  for (const jit::Value* source : behind_full_ranges(graph, node.input(0))) {
    for (const auto& use : source->uses()) {
      if (base_name(*use.user) != "slice" || graph.constant_int(use.user->input(1)) != dim) continue;
      const auto start = graph.constant_int(use.user->input(2)), end = graph.constant_int(use.user->input(3));
      if (start.has_value() && end.has_value() && *end == *start + 1) starts.insert(*start);
    }
  }
  return static_cast<int64_t>(starts.size()) == *num_experts;
}

// True for a slice from the first place on beside which another one of the same length lies.
bool is_side_by_side(const MethodGraph& graph, const jit::Node& node) {
  if (base_name(node) != "slice") return false;
  const auto end = graph.constant_int(node.input(3));
  const auto dim = graph.constant_int(node.input(1));
  for (const jit::Value* source : behind_full_ranges(graph, node.input(0))) {
    for (const auto& use : source->uses()) {
      if (base_name(*use.user) != "slice" || graph.constant_int(use.user->input(1)) != dim) continue;
      const auto start = graph.constant_int(use.user->input(2)), other_end = graph.constant_int(use.user->input(3));
      if (end && start && other_end && *start >= *end && *other_end - *start == *end) return true;
    }
  }
  return false;
}

// True for a slice of the first places of a value of which no others are sliced.
bool takes_first(const MethodGraph& graph, const jit::Node& node) {
  if (base_name(node) != "slice" || is_full_range(graph, node)) return false;
  for (const auto& use : node.input(0)->uses()) {
    if (base_name(*use.user) != "slice") continue;
    // What lies behind the first places may be taken, too, by those who are left out.
    const auto start = graph.constant(use.user->input(2));
    const bool first = start && (start->isNone() || (start->isInt() && start->toInt() == 0));
    const bool behind = start && start->isInt() && graph.constant_int(node.input(3)) == start->toInt();
    if (!first && !behind) return false;
  }
  return true;
}

// True for a slice whose end is the smaller of two: a list of tokens, or as many as an expert takes.
bool ends_at_a_minimum(const jit::Node& node) {
  return base_name(node) == "slice" && node.input(3)->node()->kind() == jit::prim::min;
}

// True if the place that is selected is one of the slots', not of the tokens'.
bool selects_slot(const MethodGraph& graph, const jit::Node& node, const Fact& slots, KnownShapes& shapes) {
  const auto dim = graph.constant_int(node.input(1));
  if (!dim) return false;
  const auto rank = shapes.of(node.input(0)).rank;
  if (from_end(*dim, rank) == from_end(slots.expert_dim, rank)) return true;
  return !rank && *dim == 1 && slots.expert_dim == -1;  // [tokens, slots] in most models
}

}  // namespace

// True if all that is used of the sliced value is this piece: then it is the selection. Pieces that lie side by side
// are parts of one.
bool RouterFlow::is_only_piece(const jit::Node* node) const {
  for (const jit::Value* place : node->inputs().slice(1)) {
    if (!graph_.constant(place).has_value()) return false;  // another piece in each turn of a loop
  }
  for (const jit::Value* source : behind_full_ranges(graph_, node->input(0))) {
    for (const auto& use : source->uses()) {
      const OpKind kind = op_kind(*use.user);
      if (use.user == node || is_full_range(graph_, *use.user) || kind == OpKind::kReduce || kind == OpKind::kOther)
        continue;
      const bool alike = use.user->kind() == node->kind() && use.user->inputs().size() == node->inputs().size();
      if (!alike) return false;
      for (size_t i = 1; i < node->inputs().size(); ++i) {
        const auto own = graph_.constant(node->input(i)), other = graph_.constant(use.user->input(i));
        if (!own || !other || !own->equals(*other).toBool()) return false;
      }
    }
  }
  return true;
}

void RouterFlow::follow_part(jit::Node* node, OpKind kind) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  Fact result = *found;
  if (kind == OpKind::kSlice && is_full_range(graph_, *node)) {
    set(node->output(), result);
    return;
  }
  const bool slots = result.role == Role::kSlot || result.role == Role::kIds;
  if (kind == OpKind::kSelect && slots && result.aligned && result.num_slots == 1 &&
      selects_slot(graph_, *node, result, shapes_)) {
    set(node->output(), result);  // the one slot of each token without its dimension
    return;
  }
  result.column = result.in_pieces = true;
  if (kind == OpKind::kSlice && result.aligned) {
    const std::string name = base_name(*node);
    const auto start = graph_.constant(node->input(2));
    const auto end = name == "slice" ? graph_.constant(node->input(3)) : std::nullopt;
    const bool from_start = start.has_value() && (start->isNone() || (start->isInt() && start->toInt() == 0));
    if (result.role == Role::kSlot && result.mixed_at >= 0) {
      // Slots that were concatenated with other values: the part that holds them is the weights again.
      if (from_start != (result.mixed_at == 0)) return;
      result.mixed_at = -1;
    }
    // Some of the slots. From the first on they may be the selection, with places behind them that serve something
    // else; those of a sort that are behind the others may be it, too.
    if (slots && !(from_start ? !is_side_by_side(graph_, *node) : is_only_piece(node))) {
      lose_alignment(result);
      const int64_t first = start.has_value() && start->isInt() ? start->toInt() : 0;
      if (end.has_value() && end->isInt() && end->toInt() == first + 1) result.place = static_cast<int>(first);
      set(node->output(), result);
      return;
    }
    if (result.role == Role::kMask && result.one_hot && is_expert_column(graph_, *node, result.num_experts)) {
      result.per_expert = true;
      result.one_hot = false;
    }
    std::optional<int64_t> length;
    if (from_start && end.has_value() && end->isInt()) {
      length = end->toInt();
      if (*length < 0 && result.role == Role::kScore && result.num_experts.has_value()) *length += *result.num_experts;
      if (*length <= 0 || *length == std::numeric_limits<int64_t>::max()) length.reset();
    }
    result.parent = found->base;
    result.base = node->output();
    result.slots_alone = nullptr;
    if (result.role == Role::kScore && result.picks.empty()) {
      if (!from_start) {
        result.part = start.has_value() && start->isInt() ? static_cast<int>(start->toInt()) : -1;
        const bool to_end = end.has_value() && (end->isNone() || end->toInt() == std::numeric_limits<int64_t>::max());
        if (to_end && result.part > 0 && result.num_experts.has_value())
          *result.num_experts -= result.part;
        else
          result.num_experts.reset();
      }
      if (length.has_value()) {
        const auto dim = graph_.constant_int(node->input(1));
        if (dim.has_value() && *dim != 0) result.num_experts = length;
      }
      if (result.score == nullptr)
        result.logits = node->output();
      else if (result.score == found->base) {
        result.score = node->output();
        // The logits are cut alike where the model cuts them too; else the whole stays.
      }
    }
    if (slots) {
      result.num_slots = length;
      if (result.role == Role::kIds) result.ids = {node->output()};
    }
    set(node->output(), result);
    return;
  }
  const bool is_piece = found->place >= 0 || found->place_in_run != nullptr;  // then it has no slots any more
  const bool one_slot = kind == OpKind::kSelect && slots && selects_slot(graph_, *node, *found, shapes_);
  if (one_slot && !is_piece) {
    auto place = graph_.constant_int(node->input(2));
    if (place && *place < 0) place = found->num_slots ? std::optional(*place + *found->num_slots) : std::nullopt;
    result.place = static_cast<int>(place.value_or(-1));
    result.place_in_run = result.place < 0 ? node->input(2) : nullptr;
  }
  if (one_slot && result.aligned && is_only_piece(node)) {
    // One slot of each token is all that is used.
    result.parent = nullptr;
    result.base = node->output();
    result.num_slots = 1;
    if (result.role == Role::kIds) result.ids = {node->output()};
  } else if (result.role == Role::kScore && !carries_weights(result)) {
    // The scores of one token, or of one expert for all tokens.
    result.aligned = true;
    result.base = nullptr;
  } else {
    lose_alignment(result);
    if (kind == OpKind::kSelect && slots && !one_slot && !is_piece) {
      result.place = static_cast<int>(graph_.constant_int(node->input(2)).value_or(-1));
    }
    result.per_expert = result.per_expert || carries_weights(*found);
    result.cut =
        result.cut || (result.role == Role::kOrder && (takes_first(graph_, *node) || ends_at_a_minimum(*node)));
  }
  for (jit::Value* output : node->outputs()) set(output, result);
}

}  // namespace moetap::hooks
