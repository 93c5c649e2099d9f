#include "hooks/tokens/token_packing.h"

#include <limits>

#include "hooks/graph/known_numbers.h"
#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// `number OP x` is `x turned(OP) number`.
Comparison turned(Comparison comparison) {
  switch (comparison) {
    case Comparison::kLess:
      return Comparison::kGreater;
    case Comparison::kLessEqual:
      return Comparison::kGreaterEqual;
    case Comparison::kGreater:
      return Comparison::kLess;
    case Comparison::kGreaterEqual:
      return Comparison::kLessEqual;
    default:
      return comparison;
  }
}

Comparison opposite(Comparison comparison) {
  switch (comparison) {
    case Comparison::kEqual:
      return Comparison::kNotEqual;
    case Comparison::kNotEqual:
      return Comparison::kEqual;
    case Comparison::kLess:
      return Comparison::kGreaterEqual;
    case Comparison::kLessEqual:
      return Comparison::kGreater;
    case Comparison::kGreater:
      return Comparison::kLessEqual;
    case Comparison::kGreaterEqual:
      break;
  }
  return Comparison::kLess;
}

std::optional<Comparison> comparison_of(const jit::Node& node) {
  const std::string name = base_name(node);
  if (name == "eq") return Comparison::kEqual;
  if (name == "ne" || name == "not_equal") return Comparison::kNotEqual;
  if (name == "lt" || name == "less") return Comparison::kLess;
  if (name == "le" || name == "less_equal") return Comparison::kLessEqual;
  if (name == "gt" || name == "greater") return Comparison::kGreater;
  if (name == "ge" || name == "greater_equal") return Comparison::kGreaterEqual;
  return std::nullopt;
}

bool is_negation(const jit::Node& node) {
  const std::string name = base_name(node);
  return name == "logical_not" || name == "bitwise_not" || name == "__not__";
}

bool is_cast_to_bool(const jit::Node& node, const MethodGraph& graph) {
  if (base_name(node) == "bool") return true;
  if (base_name(node) != "to") return false;
  for (const jit::Value* input : node.inputs().slice(1)) {
    if (input->type()->kind() != c10::TypeKind::IntType) continue;
    return graph.constant_int(input) == static_cast<int64_t>(c10::ScalarType::Bool);
  }
  return false;
}

bool is_whole(const jit::Node& slice, const MethodGraph& graph) {
  if (base_name(slice) != "slice" || slice.inputs().size() < 4) return false;
  const auto first = graph.constant(slice.input(2)), end = graph.constant(slice.input(3));
  const bool from_start = first && (first->isNone() || (first->isInt() && first->toInt() == 0));
  return from_start && end && (end->isNone() || (end->isInt() && end->toInt() == std::numeric_limits<int64_t>::max()));
}

// Seen through what leaves the elements as they are, in their order or another that the axes tell.
const jit::Value* before_views(const jit::Value* value, const MethodGraph& graph) {
  while (true) {
    if (const jit::Value* outer = graph.outer_of(value)) {
      value = outer;
      continue;
    }
    const jit::Node& node = *value->node();
    const OpKind kind = op_kind(node);
    const bool moves = kind == OpKind::kMoveAxis && !turns_elements(node);
    const bool views = kind == OpKind::kReshape || kind == OpKind::kRepeat || moves || is_whole(node, graph);
    const bool copies = kind == OpKind::kCopy && !is_cast_to_bool(node, graph);
    if (node.inputs().empty() || (!views && !copies) || is_in_place(node)) return value;
    value = node.input(0);
  }
}

}  // namespace

int64_t argument_of_numbers(const jit::Value* value, const TokenFlow& flow, const MethodGraph& graph) {
  value = before_views(value, graph);
  for (size_t i = 0; i < flow.arguments().size(); ++i) {
    if (flow.arguments()[i] == value) return static_cast<int64_t>(i);
  }
  return -1;
}

std::optional<TokenPacking> packing_of(const jit::Value* mask, const TokenFlow& flow, const MethodGraph& graph) {
  bool negated = false;
  while (true) {
    mask = before_views(mask, graph);
    const jit::Node& node = *mask->node();
    if (is_negation(node)) {
      negated = !negated;
    } else if (!is_cast_to_bool(node, graph)) {
      break;
    } else if (argument_of_numbers(node.input(0), flow, graph) >= 0) {
      break;  // what is not 0
    }
    mask = node.input(0);
  }
  const jit::Node& node = *mask->node();
  TokenPacking packing;
  if (const auto comparison = comparison_of(node); comparison && node.inputs().size() == 2) {
    const size_t place = argument_of_numbers(node.input(0), flow, graph) >= 0 ? 0 : 1;
    const auto number = constant_number(graph, node.input(1 - place));
    packing.argument = argument_of_numbers(node.input(place), flow, graph);
    if (!number || packing.argument < 0) return std::nullopt;
    packing.number = *number;
    packing.keeps = place == 0 ? *comparison : turned(*comparison);
  } else {
    const bool is_cast = is_cast_to_bool(node, graph);
    packing.argument = argument_of_numbers(is_cast ? node.input(0) : mask, flow, graph);
    if (packing.argument < 0) return std::nullopt;
  }
  if (negated) packing.keeps = opposite(packing.keeps);
  return packing;
}

bool holds_bools(const jit::Value* value, const MethodGraph& graph) {
  value = before_views(value, graph);
  const jit::Node& node = *value->node();
  const OpKind kind = op_kind(node);
  return kind == OpKind::kCompare || kind == OpKind::kLogical || is_negation(node) || is_cast_to_bool(node, graph);
}

std::optional<FoundPlaces> found_places(const jit::Value* index, const MethodGraph& graph) {
  FoundPlaces found;
  while (true) {
    index = before_views(index, graph);
    const jit::Node* node = index->node();
    if (op_kind(*node) == OpKind::kNonzero) {
      found.nonzero = node;
      return found;
    }
    if (node->inputs().empty()) return std::nullopt;
    const std::string name = base_name(*node);
    if (node->kind() == jit::prim::ListUnpack) {
      found.column = static_cast<int64_t>(index->offset());
    } else if (name == "select" || name == "__getitem__") {
      const bool of_list = name == "__getitem__";
      const auto dim = of_list ? std::optional<int64_t>(1) : graph.constant_int(node->input(1));
      const auto column = graph.constant_int(node->input(of_list ? 1 : 2));
      if ((dim != 1 && dim != -1) || !column || *column < 0) return std::nullopt;
      found.column = *column;
    } else if (name != "unbind") {
      return std::nullopt;
    }
    index = node->input(0);
  }
}

}  // namespace moetap::hooks
