// Numbers, lists and tuples: what shapes are asked for and computed from.

#include <algorithm>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"

namespace moetap::hooks {
namespace jit = torch::jit;

std::optional<AxisTransfer::Results> AxisTransfer::values(const std::string& name) {
  const auto kind = node_->kind();
  if (kind == jit::prim::GetAttr || kind == jit::prim::Constant) {
    const auto constant = flow_.graph_.constant(node_->output());
    if (!constant) return std::vector<AxisFact>{unknown_fact()};
    if (constant->isInt()) return std::vector<AxisFact>{number_fact({{-1, constant->toInt()}})};
    if (constant->isIntList()) {
      std::vector<AxisFact> elements;
      for (const int64_t one : constant->toIntVector()) elements.push_back(number_fact({{-1, one}}));
      return std::vector<AxisFact>{list_fact(std::move(elements))};
    }
    if (constant->isTensor() && constant->toTensor().defined()) {
      Axes axes;
      for (const int64_t size : constant->toTensor().sizes()) axes.push_back(constant_axis(size));
      const std::vector<std::string> path =
          flow_.written_parts_.empty() ? std::vector<std::string>() : flow_.graph_.attribute_path(node_->output());
      for (const TokenFlow::WrittenPart& part : flow_.written_parts_) {
        if (!path.empty() && part.attribute == path) flow_.mark_written(axes, part, &part);
      }
      AxisFact tensor = tensor_fact(axes);
      const at::Tensor& value = constant->toTensor();
      if (axes.empty() && value.is_cpu() && at::isIntegralType(value.scalar_type(), false)) {
        tensor.number = Axis{{-1, value.item<int64_t>()}};
      }
      return std::vector<AxisFact>{tensor};
    }
    return std::vector<AxisFact>{unknown_fact()};
  }
  if (kind == jit::prim::ListConstruct || kind == jit::prim::TupleConstruct) {
    if (node_->inputs().empty() && flow_.of(node_->output()).every) return std::vector{flow_.of(node_->output())};
    std::vector<AxisFact> elements;
    for (const jit::Value* input : node_->inputs()) elements.push_back(fact(input));
    return std::vector<AxisFact>{list_fact(std::move(elements))};
  }
  if (kind == jit::prim::ListUnpack || kind == jit::prim::TupleUnpack) {
    const jit::Value* list = node_->input(0);
    if (list->node()->kind() == jit::aten::size && list->node()->inputs().size() == 1) {
      flow_.require_rank(list->node()->input(0), static_cast<int64_t>(node_->outputs().size()), false);
    }
    std::vector<AxisFact> elements;
    for (size_t i = 0; i < node_->outputs().size(); ++i) {
      AxisFact element = element_of(fact(list), i);
      if (element == unknown_fact()) element = flow_.cache_in_list(node_->output(i));
      elements.push_back(std::move(element));
    }
    return elements;
  }
  if (kind == jit::prim::TupleIndex || (kind == jit::aten::__getitem__ && node_->inputs().size() == 2)) {
    const AxisFact list = fact(node_->input(0));
    if (!list.elements) return std::vector<AxisFact>{list.every ? *list.every : flow_.cache_in_list(node_->output())};
    const auto place = dim(node_->input(1), list.elements->size());
    return std::vector<AxisFact>{place ? (*list.elements)[static_cast<size_t>(*place)] : unknown_fact()};
  }
  if (kind == jit::aten::append) {
    const jit::Value* list = node_->input(0);
    const AxisFact& before = flow_.of(list);
    const AxisFact added = fact(node_->input(1));
    const bool is_new = before.elements && before.elements->empty();
    // How often a loop appends is not known: from now on all elements are alike.
    const AxisFact every = is_new ? added : flow_.join(element_of(before, 0), added, node_->output());
    flow_.put(list, list_of(every));
    return std::vector<AxisFact>{list_of(every)};
  }
  if (name == "slice" && !is_tensor(node_->input(0))) {
    const AxisFact list = fact(node_->input(0));
    const auto bound = [&](size_t i, int64_t otherwise) {
      return node_->inputs().size() <= i || is_none(node_->input(i)) ? std::optional<int64_t>(otherwise)
                                                                     : flow_.graph_.constant_int(node_->input(i));
    };
    if (list.elements) {
      const auto size = static_cast<int64_t>(list.elements->size());
      auto start = bound(1, 0), end = bound(2, size);
      if (start && end && bound(3, 1) == 1) {
        for (auto* place : {&*start, &*end}) *place = std::clamp(*place < 0 ? *place + size : *place, int64_t{0}, size);
        if (*start <= *end) {
          return std::vector<AxisFact>{list_fact({list.elements->begin() + *start, list.elements->begin() + *end})};
        }
      }
    }
    return std::vector<AxisFact>{list.every ? list : unknown_fact()};
  }
  if (name == "add" && !node_->inputs().empty() && node_->input(0)->type()->kind() == c10::TypeKind::ListType) {
    const AxisFact first = fact(node_->input(0)), second = fact(node_->input(1));
    if (!first.elements || !second.elements) return std::vector<AxisFact>{unknown_fact()};
    std::vector<AxisFact> both = *first.elements;
    both.insert(both.end(), second.elements->begin(), second.elements->end());
    return std::vector<AxisFact>{list_fact(std::move(both))};
  }
  if (name == "size" || name == "sym_size") {
    const jit::Value* source = node_->input(0);
    const MaybeAxes known = axes(source);
    if (node_->inputs().size() == 2) {
      const auto asked = flow_.graph_.constant_int(node_->input(1));
      if (asked && *asked >= 0) flow_.require_rank(source, *asked + 1, true);
      const auto place = known ? dim(node_->input(1), known->size()) : std::nullopt;
      return std::vector<AxisFact>{place ? number_fact((*known)[static_cast<size_t>(*place)]) : unknown_fact()};
    }
    if (!known) return std::vector<AxisFact>{unknown_fact()};
    std::vector<AxisFact> sizes;
    for (const Axis& axis : *known) sizes.push_back(number_fact(axis));
    return std::vector<AxisFact>{list_fact(std::move(sizes))};
  }
  if (name == "numel") {
    const MaybeAxes known = input_axes(0);
    if (!known) return std::vector<AxisFact>{unknown_fact()};
    Axis product;
    for (const Axis& axis : *known) product.insert(product.end(), axis.begin(), axis.end());
    return std::vector<AxisFact>{number_fact(std::move(product))};
  }
  if (name == "dim" || name == "len") {
    const AxisFact source = fact(node_->input(0));
    if (name == "len" && source.elements) {
      return std::vector<AxisFact>{number_fact({{-1, static_cast<int64_t>(source.elements->size())}})};
    }
    if (name == "len" && source.axes && !source.axes->empty()) {
      return std::vector<AxisFact>{number_fact(source.axes->front())};
    }
    if (name == "dim" && source.axes) {
      return std::vector<AxisFact>{number_fact({{-1, static_cast<int64_t>(source.axes->size())}})};
    }
    return std::vector<AxisFact>{unknown_fact()};
  }
  if (name == "NumToTensor" || name == "Int" || name == "IntImplicit" || name == "ScalarImplicit" || name == "item" ||
      name == "tensor" || name == "scalar_tensor") {
    AxisFact number = fact(node_->input(0));
    if (!number.number)
      return name == "tensor" || name == "scalar_tensor" ? std::nullopt
                                                         : std::optional<std::vector<AxisFact>>({unknown_fact()});
    if (is_tensor(node_->output())) number.axes = Axes();
    return std::vector<AxisFact>{number};
  }
  if (name == "mul" || name == "floordiv" || name == "floor_divide" || name == "div" || name == "add" ||
      name == "sub" || name == "neg") {
    const AxisFact first = fact(node_->input(0));
    const AxisFact second = node_->inputs().size() > 1 ? fact(node_->input(1)) : unknown_fact();
    if (!first.number) return std::nullopt;
    AxisFact result = unknown_fact();
    if (is_tensor(node_->output())) result.axes = Axes();
    const auto a = constant_size(*first.number);
    if (name == "neg") {
      if (a) result.number = Axis{{-1, -*a}};
      return std::vector<AxisFact>{result};
    }
    if (!second.number) return std::nullopt;
    const auto b = constant_size(*second.number);
    if (a && b) {
      if (name == "mul") result.number = Axis{{-1, *a * *b}};
      if (name == "add") result.number = Axis{{-1, *a + *b}};
      if (name == "sub") result.number = Axis{{-1, *a - *b}};
      if ((name == "floordiv" || name == "div" || name == "floor_divide") && *b > 0 && *a >= 0 && *a % *b == 0) {
        result.number = Axis{{-1, *a / *b}};
      }
    } else if (name == "mul") {
      result.number = *first.number;
      result.number->insert(result.number->end(), second.number->begin(), second.number->end());
    } else if (name == "floordiv" || name == "div" || name == "floor_divide") {
      Axis left = *first.number;
      bool divides = true;
      for (const Factor& factor : *second.number) {
        const auto found = std::find_if(left.begin(), left.end(),
                                        [&](const Factor& other) { return symbols_.same_class(factor, other); });
        if (found == left.end()) {
          divides = divides && factor.is_constant() && factor.size == 1;
        } else {
          left.erase(found);
        }
      }
      result.number = divides ? left : fresh(0);
    } else if (b == 0) {
      result.number = first.number;
    } else {
      result.number = fresh(0);
    }
    return std::vector<AxisFact>{result};
  }
  if (name == "Uninitialized") return std::vector<AxisFact>{AxisFact()};
  if (name == "unchecked_cast" || name == "_unwrap_optional" || kind == jit::aten::wait) {
    return std::vector<AxisFact>{fact(node_->input(0))};
  }
  return std::nullopt;
}

namespace {

// The arms of a branch that may be taken.
std::vector<const jit::Block*> live_arms(const TokenFlow& flow, const MethodGraph& graph, const jit::Node& branch) {
  const auto condition = constant_bool(flow, graph, branch.input(0));
  if (condition) return {branch.blocks()[*condition ? 0 : 1]};
  return {branch.blocks()[0], branch.blocks()[1]};
}

// True for a text that holds something whichever arms are taken: a reason why an operator cannot be used.
bool is_never_empty(const TokenFlow& flow, const MethodGraph& graph, const jit::Value* text) {
  if (const auto constant = graph.constant(text)) return constant->isString() && !constant->toStringRef().empty();
  const jit::Node* node = text->node();
  if (node->kind() == jit::aten::format) return is_never_empty(flow, graph, node->input(0));
  if (node->kind() != jit::prim::If) return false;
  const auto arms = live_arms(flow, graph, *node);
  return std::all_of(arms.begin(), arms.end(), [&](const jit::Block* arm) {
    return is_never_empty(flow, graph, arm->outputs()[text->offset()]);
  });
}

// Whether a value is None, where that is the same whichever arms are taken.
std::optional<bool> is_known_none(const TokenFlow& flow, const MethodGraph& graph, const jit::Value* value) {
  if (const auto constant = graph.constant(value)) return constant->isNone();
  const jit::Node* node = value->node();
  if (node->kind() == jit::prim::unchecked_cast) return false;
  if (node->kind() != jit::prim::If) return std::nullopt;
  std::optional<bool> all;
  for (const jit::Block* arm : live_arms(flow, graph, *node)) {
    const auto one = is_known_none(flow, graph, arm->outputs()[value->offset()]);
    if (!one || (all && *all != *one)) return std::nullopt;
    all = one;
  }
  return all;
}

}  // namespace

std::optional<bool> constant_bool(const TokenFlow& flow, const MethodGraph& graph, const jit::Value* value) {
  const auto found = graph.constant(value);
  if (found && found->isBool()) return found->toBool();
  const jit::Node* node = value->node();
  const std::string name = base_name(*node);
  if (name == "__is__" || name == "__isnot__") {
    const auto first = is_known_none(flow, graph, node->input(0)), second = is_known_none(flow, graph, node->input(1));
    if (!first || !second || (!*first && !*second)) return std::nullopt;
    return (*first == *second) == (name == "__is__");
  }
  if (name == "__not__") {
    const auto operand = constant_bool(flow, graph, node->input(0));
    return operand ? std::optional<bool>(!*operand) : std::nullopt;
  }
  if (node->kind() == jit::prim::If) {  // `a and b`, `a or b`
    const auto condition = constant_bool(flow, graph, node->input(0));
    if (!condition) return std::nullopt;
    return constant_bool(flow, graph, node->blocks()[*condition ? 0 : 1]->outputs()[value->offset()]);
  }
  if (node->inputs().size() != 2) return std::nullopt;
  const jit::Node* counted = node->input(0)->node();
  if (name == "gt" && counted->kind() == jit::aten::len && graph.constant_int(node->input(1)) == 0 &&
      is_never_empty(flow, graph, counted->input(0))) {
    return true;
  }
  const auto number = [&](const jit::Value* of) {
    const AxisFact& fact = flow.of(of);
    return fact.number ? constant_size(*fact.number) : std::nullopt;
  };
  const auto a = number(node->input(0)), b = number(node->input(1));
  if (!a || !b) return std::nullopt;
  if (name == "eq") return *a == *b;
  if (name == "ne") return *a != *b;
  if (name == "lt") return *a < *b;
  if (name == "le") return *a <= *b;
  if (name == "gt") return *a > *b;
  if (name == "ge") return *a >= *b;
  return std::nullopt;
}

}  // namespace moetap::hooks
