#include "hooks/graph/known_numbers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string_view>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr int kMaxDepth = 32;

std::optional<NumberRange> of_constant(const c10::IValue& constant) {
  if (constant.isInt()) return NumberRange{constant.toInt(), constant.toInt()};
  if (!constant.isTensor() || !constant.toTensor().defined()) return std::nullopt;
  const at::Tensor tensor = constant.toTensor();
  if (!at::isIntegralType(tensor.scalar_type(), /*includeBool=*/false) || tensor.numel() == 0) return std::nullopt;
  return NumberRange{tensor.min().item<int64_t>(), tensor.max().item<int64_t>()};
}

std::optional<NumberRange> find(const MethodGraph& graph, const jit::Value* value, int depth);

const jit::Value* named_input(const jit::Node& node, const char* name) {
  const auto* schema = node.maybeSchema();
  if (schema == nullptr || !schema->argumentIndexWithName(name)) return nullptr;
  return node.namedInput(name);
}

std::optional<NumberRange> of_fresh(const MethodGraph& graph, const jit::Node& node, int depth) {
  const std::string name = base_name(node);
  const auto starts = [&](std::string_view text) { return name.starts_with(text) || name.starts_with("new_"); };
  if (name.find("zeros") != std::string::npos) return NumberRange{0, 0};
  if (name.find("ones") != std::string::npos) return NumberRange{1, 1};
  if (starts("full")) {
    const jit::Value* filled = named_input(node, "fill_value");
    return filled == nullptr ? std::nullopt : find(graph, filled, depth);
  }
  if (name == "arange") {
    const jit::Value *start = named_input(node, "start"), *end = named_input(node, "end");
    const auto first = start == nullptr ? std::optional(NumberRange{0, 0}) : find(graph, start, depth);
    const auto behind = end == nullptr ? std::nullopt : find(graph, end, depth);
    if (!first || !behind || behind->largest <= first->least) return std::nullopt;
    return NumberRange{first->least, behind->largest - 1};
  }
  if (name == "tensor" || name == "scalar_tensor") return find(graph, node.input(0), depth);
  return std::nullopt;
}

std::optional<NumberRange> find(const MethodGraph& graph, const jit::Value* value, int depth) {
  if (depth > kMaxDepth) return std::nullopt;
  ++depth;
  if (const auto constant = graph.constant(value)) return of_constant(*constant);
  const jit::Node& node = *value->node();
  if (node.kind() == jit::prim::ListConstruct) {
    std::optional<NumberRange> all;
    for (const jit::Value* element : node.inputs()) {
      const auto one = find(graph, element, depth);
      if (!one) return std::nullopt;
      all = all ? NumberRange{std::min(all->least, one->least), std::max(all->largest, one->largest)} : *one;
    }
    return all;
  }
  if (node.inputs().empty()) return std::nullopt;
  const std::string name = base_name(node);
  if (name == "NumToTensor" || name == "Int" || name == "IntImplicit" || name == "ScalarImplicit") {
    return find(graph, node.input(0), depth);
  }
  if (name == "fill") return find(graph, node.input(1), depth);
  switch (op_kind(node)) {
    case OpKind::kCopy:
    case OpKind::kReshape:
    case OpKind::kMoveAxis:
    case OpKind::kRepeat:
    case OpKind::kSlice:
    case OpKind::kSelect:
      return find(graph, node.input(0), depth);
    case OpKind::kFresh:
      return of_fresh(graph, node, depth);
    default:
      break;
  }
  if ((name == "add" || name == "mul") && node.inputs().size() > 1) {
    const auto left = find(graph, node.input(0), depth), right = find(graph, node.input(1), depth);
    if (!left || !right) return std::nullopt;
    if (name == "add") return NumberRange{left->least + right->least, left->largest + right->largest};
    const auto [least, largest] = std::minmax({left->least * right->least, left->least * right->largest,
                                               left->largest * right->least, left->largest * right->largest});
    return NumberRange{least, largest};
  }
  return std::nullopt;
}

}  // namespace

std::optional<NumberRange> known_numbers(const MethodGraph& graph, const jit::Value* value) {
  return find(graph, value, 0);
}

std::optional<double> constant_number(const MethodGraph& graph, const torch::jit::Value* value) {
  const auto constant = graph.constant(value);
  if (!constant) return std::nullopt;
  if (constant->isInt()) return static_cast<double>(constant->toInt());
  if (constant->isDouble()) return constant->toDouble();
  if (constant->isBool()) return constant->toBool() ? 1.0 : 0.0;
  if (constant->isTensor() && constant->toTensor().defined() && constant->toTensor().numel() == 1 &&
      !constant->toTensor().is_complex()) {
    return constant->toTensor().item().toDouble();
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
