#include "hooks/graph/known_shapes.h"

#include <algorithm>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

KnownShape KnownShapes::of(const jit::Value* value) {
  const auto [found, fresh] = known_.try_emplace(value);  // unknown while it is looked for: loops end here
  if (!fresh) return found->second;
  KnownShape shape = find(value);
  complete_by_uses(value, shape);
  return known_[value] = shape;
}

// What a value is used for tells its shape, too: what a parameter projects or a norm is over is as wide as these, and
// `b, s, d = x.shape` has three dimensions.
void KnownShapes::complete_by_uses(const jit::Value* value, KnownShape& shape) const {
  if (!is_tensor(value)) return;
  for (const jit::Use& use : value->uses()) {
    if (use.offset != 0) continue;
    const jit::Node& user = *use.user;
    const std::string name = base_name(user);
    if (!shape.last && (name == "linear" || name == "matmul" || name == "mm")) {
      const auto weight = graph_.constant(user.input(1));
      if (!weight || !weight->isTensor() || !weight->toTensor().defined() || weight->toTensor().dim() != 2) continue;
      shape.last = weight->toTensor().size(name == "linear" ? 1 : 0);
    } else if (!shape.last && name == "layer_norm") {
      const auto sizes = graph_.constant_ints(user.input(1));
      if (sizes && !sizes->empty()) shape.last = sizes->back();
    } else if (!shape.rank && user.kind() == jit::aten::size && user.inputs().size() == 1) {
      for (const jit::Use& of_sizes : user.output()->uses()) {
        if (of_sizes.user->kind() == jit::prim::ListUnpack) {
          shape.rank = static_cast<int64_t>(of_sizes.user->outputs().size());
        }
      }
    }
  }
}

KnownShape KnownShapes::find(const jit::Value* value) {
  if (const auto constant = graph_.constant(value)) {
    if (!constant->isTensor() || !constant->toTensor().defined()) return {0, 1};
    const at::Tensor tensor = constant->toTensor();
    return {tensor.dim(), tensor.dim() == 0 ? 1 : tensor.size(-1)};
  }
  const jit::Node& node = *value->node();
  if (node.kind() == jit::prim::Param) {
    const jit::Value* outer = graph_.outer_of(value);
    return outer == nullptr ? KnownShape{} : of(outer);
  }
  if (node.inputs().empty()) return {};
  if (node.kind() == jit::prim::ListUnpack) return of_list_element(*node.input()->node(), value->offset());
  if (node.kind() == jit::aten::__getitem__ && !is_tensor(node.input(0))) {
    const auto place = graph_.constant_int(node.input(1));
    return place && *place >= 0 ? of_list_element(*node.input(0)->node(), *place) : KnownShape{};
  }
  const std::string name = base_name(node);
  switch (op_kind(node)) {
    case OpKind::kCopy:
    case OpKind::kScoring:
    case OpKind::kCumulate:
    case OpKind::kScatter:
    case OpKind::kIndexWrite:
    case OpKind::kMaskedFill:
      return of(node.input(0));
    case OpKind::kMixOther:
      return name.ends_with("norm") ? of(node.input(0)) : KnownShape{};
    case OpKind::kReshape:
    case OpKind::kRepeat:
    case OpKind::kMoveAxis:
      return of_view(node);
    case OpKind::kSlice:
    case OpKind::kSelect:
      return of_part(node);
    case OpKind::kElementwise:
    case OpKind::kMultiply:
    case OpKind::kCompare:
    case OpKind::kLogical:
    case OpKind::kWhere:
      return broadcast(node);
    case OpKind::kReduce:
      return of_reduction(node);
    case OpKind::kPick: {
      const KnownShape source = of(node.input(0));
      if (name.find("sort") != std::string::npos) return source;
      const bool top = name == "topk";
      const size_t at = top || name == "kthvalue" ? 2 : 1;
      if (node.inputs().size() <= at) return {};
      const auto dim = graph_.constant_int(node.input(at));
      if (!dim) return {};
      const bool last = is_last(dim, source), other = !last && (*dim < 0 || source.rank);
      const auto kept = other ? source.last : std::nullopt;
      if (top) return {source.rank, last ? graph_.constant_int(node.input(1)) : kept};
      const auto keeps = node.inputs().size() > at + 1 ? graph_.constant(node.input(at + 1)) : std::nullopt;
      if (!keeps || !keeps->isBool()) return {};
      if (keeps->toBool()) return {source.rank, last ? std::optional<int64_t>(1) : kept};
      return {source.rank ? std::optional(*source.rank - 1) : std::nullopt, kept};
    }
    case OpKind::kContract:
      return of_contraction(node);
    case OpKind::kGather:
      return of(node.input(name == "gather" ? 2 : 1));
    case OpKind::kIndex: {
      const KnownShape source = of(node.input(0));
      if (name == "embedding") {
        const KnownShape ids = of(node.input(1));
        return {ids.rank ? std::optional(*ids.rank + 1) : std::nullopt, source.last};
      }
      if (name == "index_select") {
        const auto dim = graph_.constant_int(node.input(1));
        return {source.rank, is_last(dim, source) || !source.rank ? std::nullopt : source.last};
      }
      // One index of rows: the columns stay. With more the rank would have to be known.
      const jit::Node* list = node.inputs().size() > 1 ? node.input(1)->node() : nullptr;
      const bool rows = list != nullptr && list->kind() == jit::prim::ListConstruct && list->inputs().size() == 1;
      return {std::nullopt, rows && source.rank && *source.rank > 1 ? source.last : std::nullopt};
    }
    case OpKind::kOneHot: {
      const KnownShape ids = of(node.input(0));
      return {ids.rank ? std::optional(*ids.rank + 1) : std::nullopt, graph_.constant_int(node.input(1))};
    }
    case OpKind::kConcatenate:
      return of_concatenation(node);
    case OpKind::kFresh:
      if (name == "arange" && node.inputs().size() <= 5) return {1, graph_.constant_int(node.input(0))};
      if (name.ends_with("_like")) return of(node.input(0));
      if (name.starts_with("new_") && node.inputs().size() > 1) return of_sizes(node.input(1));
      return name == "zeros" || name == "ones" || name == "full" || name == "empty" || name.starts_with("rand")
                 ? of_sizes(node.input(0))
                 : KnownShape{};
    default:
      return {};
  }
}

bool KnownShapes::is_last(std::optional<int64_t> dim, const KnownShape& shape) const {
  return dim.has_value() && (*dim == -1 || (shape.rank.has_value() && *dim == *shape.rank - 1));
}

// The parts that `split`, `chunk` and `unbind` give, by their place.
KnownShape KnownShapes::of_list_element(const jit::Node& list, size_t place) {
  if (list.kind() == jit::prim::ListConstruct) {
    return place < list.inputs().size() && is_tensor(list.input(place)) ? of(list.input(place)) : KnownShape{};
  }
  if (op_kind(list) != OpKind::kSplit) return {};
  const std::string name = base_name(list);
  const KnownShape source = of(list.input(0));
  const auto dim = graph_.constant_int(list.inputs().back());
  if (!dim) return {};
  if (name == "unbind") {
    const bool keeps = source.rank && !is_last(dim, source);
    return {source.rank ? std::optional(*source.rank - 1) : std::nullopt, keeps ? source.last : std::nullopt};
  }
  if (!is_last(dim, source)) return {source.rank, *dim < 0 || source.rank ? source.last : std::nullopt};
  const bool chunks = name.ends_with("chunk");
  if (list.inputs().size() < 3 || (!chunks && !name.ends_with("split") && name != "split_with_sizes")) {
    return {source.rank, std::nullopt};
  }
  const auto sizes = graph_.constant_ints(list.input(1));
  if (!sizes || sizes->empty() || name == "tensor_split") return {source.rank, std::nullopt};
  if (list.input(1)->type()->kind() == c10::TypeKind::ListType) {
    return {source.rank, place < sizes->size() ? (*sizes)[place] : std::nullopt};
  }
  auto size = sizes->front();
  if (!size || *size <= 0) return {source.rank, std::nullopt};
  if (chunks) size = source.last ? std::optional((*source.last + *size - 1) / *size) : std::nullopt;
  if (!size) return {source.rank, std::nullopt};
  if (!source.last) return {source.rank, place == 0 ? size : std::nullopt};  // the last part may be smaller
  const int64_t left = *source.last - static_cast<int64_t>(place) * *size;
  return {source.rank, std::min(*size, left)};
}

// `x.size(-1)`, or the last of `b, s, d = x.shape`.
std::optional<int64_t> KnownShapes::last_of_size(const jit::Value* size) {
  const jit::Node& node = *size->node();
  if (node.kind() == jit::aten::size && node.inputs().size() == 2) {
    const KnownShape shape = of(node.input(0));
    return is_last(graph_.constant_int(node.input(1)), shape) ? shape.last : std::nullopt;
  }
  if (node.kind() == jit::prim::ListUnpack && node.input()->node()->kind() == jit::aten::size &&
      size->offset() + 1 == node.outputs().size() && node.input()->node()->inputs().size() == 1) {
    return of(node.input()->node()->input(0)).last;
  }
  return std::nullopt;
}

// The sizes of a list; -1 keeps the size of `expanded`.
KnownShape KnownShapes::of_sizes(const jit::Value* list, const jit::Value* expanded) {
  const auto sizes = graph_.constant_ints(list);
  if (!sizes || list->type()->kind() == c10::TypeKind::IntType) return {};
  KnownShape shape{static_cast<int64_t>(sizes->size()), sizes->empty() ? 1 : sizes->back()};
  if (shape.last == -1) shape.last = expanded == nullptr ? std::nullopt : of(expanded).last;
  const jit::Node& made = *list->node();
  if (!shape.last && made.kind() == jit::prim::ListConstruct && !made.inputs().empty()) {
    if (const jit::Value* last = made.inputs().back(); !graph_.constant_int(last)) shape.last = last_of_size(last);
  }
  return shape;
}

KnownShape KnownShapes::of_view(const jit::Node& node) {
  const std::string name = base_name(node);
  const KnownShape source = of(node.input(0));
  if (name == "view" || name == "reshape" || name == "_unsafe_view") return of_sizes(node.input(1));
  if (name == "expand" || name == "broadcast_to") return of_sizes(node.input(1), node.input(0));
  if (name == "view_as" || name == "reshape_as" || name == "expand_as") return of(node.input(1));
  if (name == "unsqueeze") {
    const auto dim = graph_.constant_int(node.input(1));
    const auto rank = source.rank ? std::optional(*source.rank + 1) : std::nullopt;
    const bool behind = dim == -1 || (dim && source.rank && *dim == *source.rank);
    const bool before = dim && (*dim < -1 || *dim == 0 || (source.rank && *dim < *source.rank));
    return {rank, behind ? std::optional<int64_t>(1) : before ? source.last : std::nullopt};
  }
  if (turns_elements(node)) return source;
  if (op_kind(node) == OpKind::kMoveAxis) {
    if (name != "transpose" && name != "swapaxes" && name != "swapdims") return {source.rank, std::nullopt};
    const auto a = graph_.constant_int(node.input(1)), b = graph_.constant_int(node.input(2));
    const bool keeps = a && b && source.rank && !is_last(a, source) && !is_last(b, source);
    return {source.rank, keeps ? source.last : std::nullopt};
  }
  return {};
}

KnownShape KnownShapes::of_part(const jit::Node& node) {
  const KnownShape source = of(node.input(0));
  const auto dim = graph_.constant_int(node.input(1));
  if (op_kind(node) == OpKind::kSelect) {
    const auto rank = source.rank ? std::optional(*source.rank - 1) : std::nullopt;
    return {rank, dim && source.rank && !is_last(dim, source) ? source.last : std::nullopt};
  }
  if (!dim) return {source.rank, std::nullopt};
  if (base_name(node) == "narrow") {
    if (is_last(dim, source)) return {source.rank, graph_.constant_int(node.input(3))};
    return {source.rank, source.rank ? source.last : std::nullopt};
  }
  const auto start = graph_.constant(node.input(2)), end = graph_.constant(node.input(3));
  const bool from_start = start && (start->isNone() || (start->isInt() && start->toInt() == 0));
  const bool to_end = end && (end->isNone() || (end->isInt() && end->toInt() == INT64_MAX));
  if (from_start && to_end) return source;
  if (!is_last(dim, source)) return {source.rank, source.rank ? source.last : std::nullopt};
  if (!start || !end || !end->isInt() || to_end) return {source.rank, std::nullopt};
  const int64_t first = start->isInt() ? start->toInt() : 0, behind = end->toInt();
  if (first < 0 || behind < first) return {source.rank, std::nullopt};
  return {source.rank, source.last ? std::min(behind, *source.last) - first : behind - first};
}

KnownShape KnownShapes::of_reduction(const jit::Node& node) {
  const KnownShape source = of(node.input(0));
  std::optional<bool> keeps;
  std::vector<std::optional<int64_t>> dims;
  for (size_t i = 1; i < node.inputs().size(); ++i) {
    const jit::Value* input = node.input(i);
    const auto constant = graph_.constant(input);
    if (input->type()->kind() == c10::TypeKind::BoolType && constant && constant->isBool()) keeps = constant->toBool();
    const bool list = input->type()->kind() == c10::TypeKind::ListType || (constant && constant->isIntList());
    const bool number = dims.empty() && constant && constant->isInt();
    if (!list && !number) continue;
    if (const auto found = graph_.constant_ints(input)) dims.insert(dims.end(), found->begin(), found->end());
  }
  if (dims.empty() || !keeps) return {};
  bool of_last = false, sure = true;
  for (const auto& dim : dims) {
    of_last = of_last || is_last(dim, source);
    sure = sure && dim && (*dim < 0 || source.rank);
  }
  const auto rank =
      *keeps ? source.rank
             : (source.rank ? std::optional(*source.rank - static_cast<int64_t>(dims.size())) : std::nullopt);
  if (of_last) return {rank, *keeps ? std::optional<int64_t>(1) : std::nullopt};
  return {rank, sure ? source.last : std::nullopt};
}

KnownShape KnownShapes::of_contraction(const jit::Node& node) {
  const std::string name = base_name(node);
  if (name == "linear") {
    const auto weight = graph_.constant(node.input(1));
    if (!weight || !weight->isTensor() || weight->toTensor().dim() != 2) return {of(node.input(0)).rank, std::nullopt};
    return {of(node.input(0)).rank, weight->toTensor().size(0)};
  }
  if (name == "einsum") {
    const auto equation = graph_.constant(node.input(0));
    if (!equation || !equation->isString()) return {};
    std::string text = equation->toStringRef();
    std::erase(text, ' ');
    const size_t arrow = text.find("->");
    if (arrow == std::string::npos || text.find('.') != std::string::npos || arrow + 2 == text.size()) return {};
    KnownShape shape{static_cast<int64_t>(text.size() - arrow - 2), std::nullopt};
    const jit::Node* operands = node.input(1)->node();
    if (operands->kind() != jit::prim::ListConstruct) return shape;
    size_t begin = 0;
    for (const jit::Value* operand : operands->inputs()) {
      const size_t end = std::min(text.find(',', begin), arrow);
      if (end > begin && text[end - 1] == text.back()) {
        if (const auto last = of(operand).last) shape.last = last;
      }
      begin = end + 1;
    }
    return shape;
  }
  if (name.starts_with("conv") || name == "_convolution") return {of(node.input(1)).rank, std::nullopt};
  if (name == "mm" || name == "addmm") return {2, of(node.input(name == "mm" ? 1 : 2)).last};
  if (name == "bmm" || name == "baddbmm") return {3, of(node.input(name == "bmm" ? 1 : 2)).last};
  if (name == "matmul") return {of(node.input(0)).rank, of(node.input(1)).last};
  return {};
}

KnownShape KnownShapes::of_concatenation(const jit::Node& node) {
  const jit::Node* list = node.input(0)->node();
  if (list->kind() != jit::prim::ListConstruct || list->inputs().empty()) return {};
  const KnownShape first = of(list->input(0));
  const auto dim = node.inputs().size() > 1 ? graph_.constant_int(node.input(1)) : std::nullopt;
  if (base_name(node) == "stack") {
    const auto rank = first.rank ? std::optional(*first.rank + 1) : std::nullopt;
    if (dim == -1 || (dim && first.rank && *dim == *first.rank)) {
      return {rank, static_cast<int64_t>(list->inputs().size())};
    }
    return {rank, dim && (*dim < 0 || first.rank) ? first.last : std::nullopt};
  }
  if (base_name(node) != "cat" && base_name(node) != "concat" && base_name(node) != "concatenate") return {};
  if (!is_last(dim, first)) return {first.rank, dim && (*dim < 0 || first.rank) ? first.last : std::nullopt};
  int64_t sum = 0;
  for (const jit::Value* part : list->inputs()) {
    const auto last = of(part).last;
    if (!last) return {first.rank, std::nullopt};
    sum += *last;
  }
  return {first.rank, sum};
}

// A size above 1 is the result's: an operand of unknown size has either the same or 1.
KnownShape KnownShapes::broadcast(const jit::Node& node) {
  KnownShape shape{0, 1};
  for (const jit::Value* input : node.inputs()) {
    if (!is_tensor(input)) continue;
    const KnownShape operand = of(input);
    if (shape.rank) shape.rank = operand.rank ? std::optional(std::max(*shape.rank, *operand.rank)) : std::nullopt;
    if (operand.last.value_or(0) > 1) {
      shape.last = operand.last;
    } else if (!operand.last && shape.last.value_or(0) <= 1) {
      shape.last.reset();
    }
  }
  return shape;
}

}  // namespace moetap::hooks
