// Transfer functions of RouterFlow for slots, tokens and experts that are put into another order.
#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <numeric>

#include "hooks/routers/router_axes.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

// Note [Slots in another order]
// The slots of a token have no order of their own: ids whose slots are flipped, rolled, sorted or taken by a list are
// the ids that the experts get from there on, beside weights that may have another order. So they replace those from
// before, as long as every slot is there once. Ids and weights are then reported side by side as the experts' code has
// them. Tokens in another order are another matter: a dispatch orders ids, weights and hidden states alike. Where a
// constant order is given to the tokens of ids or weights, or to the experts of what is spread over them, nothing tells
// whose they are then, and the router is refused.

namespace {

std::optional<std::vector<int64_t>> constant_list(const MethodGraph& graph, const jit::Value* list) {
  const auto numbers = graph.constant_ints(list);
  if (!numbers) return std::nullopt;
  std::vector<int64_t> known;
  for (const auto& number : *numbers) {
    if (!number) return std::nullopt;
    known.push_back(*number);
  }
  return known;
}

// The dimensions that are turned; empty where the graph does not tell, or where all elements are.
std::optional<std::vector<int64_t>> turned_dims(const MethodGraph& graph, const jit::Node& node) {
  const std::string name = base_name(node);
  if (name == "fliplr") return std::vector<int64_t>{1};
  if (name == "flipud") return std::vector<int64_t>{0};
  const size_t place = name == "roll" ? 2 : 1;
  const auto dims = node.inputs().size() > place ? constant_list(graph, node.input(place)) : std::nullopt;
  return dims && !dims->empty() ? dims : std::nullopt;
}

// The numbers that an index holds, where the graph fixes them: a constant, a list, `arange`.
std::optional<std::vector<int64_t>> constant_order(const MethodGraph& graph, const jit::Value* index) {
  const jit::Node& node = *index->node();
  if (const auto constant = graph.constant(index)) {
    if (!constant->isTensor() || !constant->toTensor().defined()) return std::nullopt;
    const at::Tensor order = constant->toTensor();
    if (!at::isIntegralType(order.scalar_type(), /*includeBool=*/false)) return std::nullopt;
    const at::Tensor flat = order.reshape({-1}).to(at::kLong).contiguous();
    return std::vector<int64_t>(flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel());
  }
  if (node.inputs().empty()) return std::nullopt;
  const OpKind kind = op_kind(node);
  if (kind == OpKind::kCopy || kind == OpKind::kRepeat || kind == OpKind::kReshape) {
    return constant_order(graph, node.input(0));
  }
  const std::string name = base_name(node);
  if (name == "tensor") {
    const jit::Node& outer = *node.input(0)->node();
    const bool one_row = outer.kind() == jit::prim::ListConstruct && outer.inputs().size() == 1 &&
                         outer.input(0)->node()->kind() == jit::prim::ListConstruct;
    return constant_list(graph, one_row ? outer.input(0) : node.input(0));
  }
  if (name != "arange") return std::nullopt;
  std::vector<int64_t> bounds;
  for (const jit::Value* input : node.inputs()) {
    const auto number = graph.constant_int(input);
    if (!number || bounds.size() == 3 || input->type()->kind() != c10::TypeKind::IntType) break;
    bounds.push_back(*number);
  }
  const auto* schema = node.maybeSchema();
  const bool has_start = schema != nullptr && schema->argumentIndexWithName("start").has_value();
  const bool has_step = schema != nullptr && schema->argumentIndexWithName("step").has_value();
  const size_t needed = has_step ? 3 : has_start ? 2 : 1;
  if (bounds.size() < needed) return std::nullopt;
  const int64_t first = has_start ? bounds[0] : 0, end = has_start ? bounds[1] : bounds[0];
  const int64_t step = has_step ? bounds[2] : 1;
  std::vector<int64_t> order;
  for (int64_t i = first; step != 0 && order.size() < 4096 && (step > 0 ? i < end : i > end); i += step) {
    order.push_back(i);
  }
  return order;
}

bool takes_each_once(std::vector<int64_t> order, std::optional<int64_t> size) {
  for (int64_t& place : order) {
    if (place < 0 && size) place += *size;
  }
  std::sort(order.begin(), order.end());
  std::vector<int64_t> all(order.size());
  std::iota(all.begin(), all.end(), 0);
  return order == all && (!size || static_cast<size_t>(*size) == order.size());
}

// The dimension along which `indices` take places: `x[:, order]`; empty where they take them along several.
std::optional<int64_t> indexed_dim(const MethodGraph& graph, const jit::Node& node,
                                   const std::vector<jit::Value*>& indices) {
  if (op_kind(node) == OpKind::kGather || base_name(node) == "index_select") return graph.constant_int(node.input(1));
  if (base_name(node) != "index" && base_name(node) != "_unsafe_index") return std::nullopt;
  std::optional<int64_t> dim;
  for (size_t i = 0; i < indices.size(); ++i) {
    if (!is_tensor(indices[i])) continue;
    if (dim) return std::nullopt;
    dim = static_cast<int64_t>(i);
  }
  return dim;
}

}  // namespace

// Where the slots of ids or weights lie, counted from the end. Empty where tokens and slots share a dimension.
std::optional<int64_t> RouterFlow::slot_dim(const jit::Value* value, const Fact& slots) {
  const auto rank = shapes_.of(value).rank;
  if (slots.flat || rank == 1) return std::nullopt;
  return from_end(slots.expert_dim, rank);
}

bool RouterFlow::is_along_slots(const jit::Value* value, const Fact& slots, const jit::Value* dim) {
  const auto along = graph_.constant_int(dim);
  const auto rank = shapes_.of(value).rank, own = slot_dim(value, slots);
  if (!along || !own) return false;
  return from_end(*along, rank) == *own || (!rank && *along == 1 && *own == -1);  // [tokens, slots] in most models
}

// Elements that change places, all of them: `flip`, `roll`.
void RouterFlow::follow_reorder(jit::Node* node, const Fact& own) {
  const auto dims = turned_dims(graph_, *node);
  const auto rank = shapes_.of(node->input(0)).rank;
  const auto only_along = [&](std::optional<int64_t> dim) {
    return dims && dim && std::all_of(dims->begin(), dims->end(), [&](int64_t turned) {
             // Where nothing tells how many there are: [tokens, slots] in most models.
             return from_end(turned, rank) == *dim || (!rank && turned == 1 && *dim == -1);
           });
  };
  Fact result = own;
  result.in_pieces = true;
  const bool slots = own.role == Role::kIds || own.role == Role::kSlot;
  if (slots && (own.aligned || own.index)) {
    if (only_along(slot_dim(node->input(0), own))) {
      result = derived(own, node, own.role);
      result.place = -1;
      if (!own.aligned) result.base = nullptr;
      if (own.role == Role::kIds && own.aligned) result.ids = {node->output()};
    } else {
      lose_alignment(result);
      result.rewritten = true;
    }
  } else if (own.role == Role::kScore && own.picks.empty()) {
    if (result.score != nullptr) result.logits = result.score = nullptr;  // they keep another order
    if (result.aligned) result.base = node->output();
    result.turned = true;
    change_scores(result, result, node->output());
  } else {
    lose_alignment(result);
    const bool of_experts = own.role == Role::kMask && own.aligned && !own.placed && only_along(-1);
    result.rewritten = own.rewritten || own.role == Role::kScore || of_experts;
  }
  set(node->output(), result);
}

// Slots that are taken by their places, which do not come from a pick: `ids[:, [1, 0]]`. False where they are not.
bool RouterFlow::follow_slots_in_order(jit::Node* node, const Fact& own, const std::vector<jit::Value*>& indices) {
  const auto dim = indexed_dim(graph_, *node, indices);
  const auto rank = shapes_.of(node->input(0)).rank;
  const auto index =
      std::find_if(indices.begin(), indices.end(), [](const jit::Value* each) { return is_tensor(each); });
  if (!dim || index == indices.end()) return false;
  const auto order = constant_order(graph_, *index);
  const bool spread = (own.role == Role::kScore && !own.picks.empty()) || (own.role == Role::kMask && own.aligned);
  const bool of_experts = from_end(*dim, rank) == from_end(own.expert_dim, rank) ||
                          (!rank && *dim == 1 && own.expert_dim == -1);  // [tokens, experts] in most models
  if (spread && !own.placed && order && order->size() > 1 && of_experts) {
    std::vector<int64_t> as_they_are(order->size());
    std::iota(as_they_are.begin(), as_they_are.end(), 0);
    if (*order == as_they_are) return false;
    Fact result = own;
    lose_alignment(result);
    result.in_pieces = result.rewritten = true;
    set(node->output(), result);
    return true;
  }
  const bool slots = own.role == Role::kIds || own.role == Role::kSlot;
  const auto along = slot_dim(node->input(0), own);
  if (!slots || !own.aligned || !along) return false;
  if (from_end(*dim, rank) != *along && (rank || *dim != 1 || *along != -1)) return false;
  const bool each_once = order && takes_each_once(*order, own.num_slots);
  const bool keeps_size = op_kind(*node) == OpKind::kGather;
  if (!each_once && !(keeps_size && !order) && !is_only_piece(node)) return false;
  Fact result = derived(own, node, own.role);
  result.place = -1;
  result.slots_alone = nullptr;
  if (!each_once) result.num_slots = order ? std::optional(static_cast<int64_t>(order->size())) : std::nullopt;
  if (!each_once && !order) result.unsure_slots = true;
  if (own.role == Role::kIds) result.ids = {node->output()};
  set(node->output(), result);
  return true;
}

// The slots of each token sorted by their ids. The sorted ids are ids, and what is gathered by the order stands beside
// them. False where tokens are sorted.
bool RouterFlow::follow_sorted_ids(jit::Node* node, const Fact& own) {
  const std::string name = base_name(*node);
  const auto along = slot_dim(node->input(0), own);
  std::optional<int64_t> dim = -1;
  if (name == "msort") dim = 0;
  for (jit::Value* input : node->inputs().slice(1)) {
    if (input->type()->kind() == c10::TypeKind::IntType) dim = graph_.constant_int(input);
  }
  const auto rank = shapes_.of(node->input(0)).rank;
  if (!own.aligned || !along || !dim || from_end(*dim, rank) != *along) return false;
  if (name != "argsort") {
    Fact sorted = derived(own, node, Role::kIds);
    sorted.base = node->output(0);
    sorted.ids = {node->output(0)};
    set(node->output(0), sorted);
  }
  if (name == "msort") return true;
  Fact order = own;
  order.sorted = true;
  order.role = Role::kOrder;
  order.aligned = true;
  order.base = node->outputs().back();
  set(node->outputs().back(), order);
  return true;
}

// Slots that were taken apart and are put together in another order: `stack([ids[:, 1], ids[:, 0]])`.
bool RouterFlow::joins_slots_in_order(jit::Node* node, const std::vector<jit::Value*>& parts, Fact& result) {
  std::vector<int64_t> places;
  std::optional<int64_t> num_slots;
  for (const jit::Value* part : parts) {
    const Fact* found = fact(part);
    if (found == nullptr || found->role != result.role) return false;
    places.push_back(found->place);
    num_slots = found->num_slots;
  }
  const auto dim = node->inputs().size() > 1 ? graph_.constant_int(node->input(1)) : std::optional<int64_t>(0);
  const auto rank = shapes_.of(parts[0]).rank;
  const bool stacks = base_name(*node) == "stack";
  if (!stacks && (!dim || rank == 1 || from_end(*dim, rank) != from_end(result.expert_dim, rank))) return false;
  // Not all of them, or not as they were: which slot each is cannot be told.
  if (!takes_each_once(places, num_slots)) result.rewritten = true;
  return !result.rewritten;
}

}  // namespace moetap::hooks
