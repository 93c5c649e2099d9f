#include "hooks/graph/value_origins.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// True if the operator makes a hidden state of a value that comes from the method's arguments.
bool mixes(const jit::Node& node) {
  const OpKind kind = op_kind(node);
  return kind == OpKind::kContract || kind == OpKind::kMixOther || base_name(node) == "embedding";
}

// True for a part of another tensor, or another layout of it: what is written there is written into that.
bool is_view(const jit::Node& node) {
  const OpKind kind = op_kind(node);
  return kind == OpKind::kReshape || kind == OpKind::kMoveAxis || kind == OpKind::kSlice || kind == OpKind::kSelect;
}

bool holds_tensor_parameter(const jit::Node& node) {
  return node.kind() == jit::prim::GetAttr || node.kind() == jit::prim::Constant;
}

}  // namespace

ValueOrigins::ValueOrigins(const MethodGraph& graph) : graph_(graph) {
  const auto inputs = graph.graph()->inputs();
  for (size_t i = 1; i < inputs.size(); ++i) raise(inputs[i], Origin::kInput);
  bool changed = true;
  // Two passes reach values that are carried around a loop once; a third finds nothing new.
  for (int pass = 0; changed && pass < 3; ++pass) {
    changed = false;
    for (jit::Node* node : graph.nodes()) changed |= visit(node);
    if (pass == 0) mark_projected_inputs();
  }
}

Origin ValueOrigins::of(const jit::Value* value) const {
  auto found = origins_.find(value);
  return found == origins_.end() ? Origin::kConstant : found->second;
}

bool ValueOrigins::raise(const jit::Value* value, Origin origin) {
  Origin& current = origins_[value];  // Origin::kConstant when new
  if (origin <= current) return false;
  current = origin;
  return true;
}

bool ValueOrigins::visit(jit::Node* node) {
  bool changed = false;
  if (node->kind() == jit::prim::Return) {
    jit::Block* block = node->owningBlock();
    jit::Node* owner = block->owningNode();
    if (owner == nullptr) owner = graph_.fork_of(node->owningGraph());
    if (owner == nullptr) return false;
    const bool loop = owner->kind() == jit::prim::Loop;
    const size_t first = loop ? 1 : 0;  // a loop body returns its condition first
    for (size_t i = first; i < node->inputs().size(); ++i) {
      const Origin origin = of(node->input(i));
      if (i - first < owner->outputs().size()) changed |= raise(owner->output(i - first), origin);
      if (loop) changed |= raise(block->inputs()[i], origin);
    }
    return changed;
  }
  if (holds_tensor_parameter(*node)) {
    const auto type = node->output()->type();
    if (type->isSubtypeOf(*c10::TensorType::get())) changed |= raise(node->output(), Origin::kParameter);
    return changed;
  }
  if (node->kind() == jit::prim::Loop) {
    for (size_t i = 2; i < node->inputs().size(); ++i) {
      const Origin origin = of(node->input(i));
      changed |= raise(node->blocks()[0]->inputs()[i - 1], origin);
      changed |= raise(node->output(i - 2), origin);
    }
    return changed;
  }
  if (auto subgraph = fork_subgraph(node)) {
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      changed |= raise(subgraph->inputs()[i], of(node->input(i)));
    }
    return changed;
  }
  if (node->kind() == jit::prim::If) return false;  // its blocks' returns raise its outputs
  // Sizes, types and devices are plain numbers, whatever they were asked of.
  if (node->outputs().size() == 1) {
    const auto kind = node->output()->type()->kind();
    if (kind == c10::TypeKind::IntType || kind == c10::TypeKind::BoolType || kind == c10::TypeKind::DeviceObjType)
      return false;
  }
  const OpKind op = op_kind(*node);
  if (op == OpKind::kFresh) return false;
  Origin origin = Origin::kConstant;
  // These take only the shape, the type or the device of a second operand.
  const bool first_only =
      op == OpKind::kCopy || op == OpKind::kReshape || op == OpKind::kRepeat || op == OpKind::kMoveAxis;
  for (const jit::Value* input : node->inputs()) {
    origin = std::max(origin, of(input));
    if (first_only) break;
  }
  if (origin == Origin::kInput && mixes(*node)) origin = Origin::kActivation;
  for (const jit::Value* output : node->outputs()) changed |= raise(output, origin);
  // A list that is appended to, a tensor that is written into.
  if (origin > Origin::kConstant && !node->inputs().empty() &&
      (node->kind() == jit::aten::append || is_in_place(*node))) {
    for (const jit::Value* written = node->input(0);; written = written->node()->input(0)) {
      changed |= raise(written, origin);
      if (!is_view(*written->node())) break;
    }
  }
  return changed;
}

// An argument that is projected by a parameter or normalised is a hidden state itself: the model takes embeddings or
// pixels.
void ValueOrigins::mark_projected_inputs() {
  for (jit::Node* node : graph_.nodes()) {
    const OpKind op = op_kind(*node);
    if ((op != OpKind::kContract && op != OpKind::kMixOther) || node->inputs().empty()) continue;
    bool by_parameter = op == OpKind::kMixOther;
    for (const jit::Value* operand : node->inputs()) by_parameter = by_parameter || is_parameter(operand);
    for (jit::Value* operand : node->inputs()) {
      const jit::Value* value = operand;
      while (of(value) == Origin::kInput) {
        if (value->node()->kind() == jit::prim::Param) {
          const jit::Value* outer = graph_.outer_of(value);
          if (outer == nullptr) break;
          value = outer;
          continue;
        }
        if (value->node()->inputs().empty()) break;
        const OpKind kind = op_kind(*value->node());
        const bool view = kind == OpKind::kCopy || kind == OpKind::kReshape || kind == OpKind::kMoveAxis;
        const std::string name = base_name(*value->node());
        const bool pooled = name == "mean" || name == "amax" || kind == OpKind::kSlice || kind == OpKind::kSelect;
        const bool computed = kind == OpKind::kElementwise || kind == OpKind::kMultiply || pooled;
        if (!view && !(computed && by_parameter)) break;
        value = value->node()->input(0);
      }
      if (value->node()->kind() == jit::prim::Param && of(value) == Origin::kInput && is_tensor(value)) {
        raise(value, Origin::kActivation);
      }
    }
  }
}

bool is_weight_first(const Projection& projection) {
  const std::string name = base_name(*projection.node);
  if (name == "addmm") return projection.node->input(1) == projection.parameter;
  return (name == "mm" || name == "matmul" || name == "bmm") && projection.node->input(0) == projection.parameter;
}

namespace {

// `(h.unsqueeze(1) * weight).sum(-1)`: a matrix product written out.
bool match_summed_product(jit::Node* node, const ValueOrigins& origins, Projection& projection) {
  if (base_name(*node) != "sum" || node->inputs().size() < 3) return false;
  std::optional<int64_t> dim;
  if (const auto dims = jit::constant_as<c10::List<int64_t>>(node->input(1)); dims && dims->size() == 1) {
    dim = dims->get(0);
  } else if (node->input(1)->node()->kind() == jit::prim::ListConstruct &&
             node->input(1)->node()->inputs().size() == 1) {
    dim = jit::constant_as<int64_t>(node->input(1)->node()->input(0));
  }
  const bool keeps = jit::constant_as<bool>(node->input(2)).value_or(true);
  const jit::Node* product = node->input(0)->node();
  if ((dim != -1 && dim != 2) || keeps || op_kind(*product) != OpKind::kMultiply || product->inputs().size() != 2) {
    return false;
  }
  for (int side = 0; side < 2; ++side) {
    jit::Value* parameter = const_cast<jit::Value*>(product->input(1 - side));
    jit::Value* activation = const_cast<jit::Value*>(product->input(side));
    if (!origins.is_parameter(parameter) || !origins.is_activation(activation)) continue;
    if (op_kind(*activation->node()) != OpKind::kReshape) return false;  // no dimension for the experts
    while (op_kind(*parameter->node()) == OpKind::kReshape) parameter = parameter->node()->input(0);
    projection = {node, parameter, activation};
    return true;
  }
  return false;
}

}  // namespace

bool match_projection(jit::Node* node, const ValueOrigins& origins, Projection& projection) {
  if (match_summed_product(node, origins, projection)) return true;
  if (op_kind(*node) != OpKind::kContract || node->outputs().empty()) return false;
  std::vector<jit::Value*> operands;
  const std::string name = base_name(*node);
  const auto inputs = node->inputs();
  if (name == "einsum") {
    jit::Node* list = inputs.size() > 1 ? inputs[1]->node() : inputs[0]->node();
    if (list->kind() != jit::prim::ListConstruct) return false;
    operands.assign(list->inputs().begin(), list->inputs().end());
  } else {
    const size_t first = name == "addmm" || name == "baddbmm" || name == "addbmm" || name == "addmv" ? 1 : 0;
    for (size_t i = first; i < inputs.size() && i < first + 2; ++i) operands.push_back(inputs[i]);
  }
  if (operands.size() != 2) return false;
  const bool packed = node->kind().ns().toUnqualString() == std::string("quantized");
  for (int side = 0; side < 2; ++side) {
    jit::Value* parameter = operands[1 - side];
    jit::Value* activation = operands[side];
    if ((origins.is_parameter(parameter) || packed) && origins.is_activation(activation)) {
      projection = {node, parameter, activation};
      return true;
    }
  }
  return false;
}

}  // namespace moetap::hooks
