#include "hooks/routers/later_products.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr size_t kMostValues = 200;  // a model multiplies weights sooner, or not at all

// Follows a product forward to the next product with another activation.
class LaterProducts {
 public:
  LaterProducts(const ValueOrigins& origins, KnownShapes& shapes) : origins_(origins), shapes_(shapes) {}

  LaterProduct of(const jit::Value* product) {
    reach(product, false);
    for (size_t i = 0; i < values_.size() && i < kMostValues; ++i) {
      const jit::Value* value = values_[i];
      for (const jit::Use& use : value->uses()) follow(*use.user, use.offset, spread_.at(value));
    }
    return found_;
  }

 private:
  void reach(const jit::Value* value, bool spread) {
    if (spread_.emplace(value, spread).second) values_.push_back(value);
  }
  void follow(const jit::Node& user, size_t operand, bool spread);
  void meet(bool spread) {
    // One use that shows it is enough.
    if (found_ != LaterProduct::kSpread) found_ = spread ? LaterProduct::kSpread : LaterProduct::kAnother;
  }
  bool is_other(const jit::Value* value) const;
  bool meets_other(const jit::Node& user) const {
    return std::any_of(user.inputs().begin(), user.inputs().end(), [this](const jit::Value* input) {
      const jit::Node& list = *input->node();
      if (list.kind() != jit::prim::ListConstruct) return is_other(input);
      return std::any_of(list.inputs().begin(), list.inputs().end(),
                         [this](const jit::Value* each) { return is_other(each); });
    });
  }

  const ValueOrigins& origins_;
  KnownShapes& shapes_;
  std::vector<const jit::Value*> values_;               // made of the product
  std::unordered_map<const jit::Value*, bool> spread_;  // these, and whether they got a dimension of size 1
  LaterProduct found_ = LaterProduct::kNone;
};

// An argument of the model, in whatever shape.
bool is_input(const jit::Value* value) {
  while (may_be_view(*value->node())) value = value->node()->input(0);
  return value->node()->kind() == jit::prim::Param;
}

// An activation that is not made of the product: `w / w.sum(-1)` meets no other.
bool LaterProducts::is_other(const jit::Value* value) const {
  if (!is_tensor(value) || !origins_.is_activation(value) || is_made_by_comparison(value)) return false;
  for (int steps = 0; steps < 8; ++steps) {
    if (spread_.contains(value)) return false;
    const jit::Node& node = *value->node();
    const OpKind kind = op_kind(node);
    const bool picked = kind == OpKind::kIndex || kind == OpKind::kGather;
    if (picked && origins_.of(node.input(0)) <= Origin::kParameter) {
      // Parameters that computed ids choose are those of an expert, others an embedding: of tokens or positions.
      const jit::Value* index = index_of(node);
      return is_input(index) || !origins_.is_activation(index);
    }
    if (node.inputs().empty() || !(may_be_view(node) || kind == OpKind::kReduce || kind == OpKind::kElementwise)) break;
    value = node.input(0);
  }
  return true;
}

void LaterProducts::follow(const jit::Node& user, size_t operand, bool spread) {
  // In and out of branches and loops.
  if (user.kind() == jit::prim::Loop) {
    if (operand >= 2) reach(user.blocks()[0]->inputs()[operand - 1], spread);
    return;
  }
  if (user.kind() == jit::prim::Return) {
    const jit::Node* owner = user.owningBlock()->owningNode();
    if (owner == nullptr) return;
    const size_t first = owner->kind() == jit::prim::Loop ? 1 : 0;
    if (operand >= first && operand - first < owner->outputs().size()) reach(owner->outputs()[operand - first], spread);
    return;
  }
  if (user.kind() == jit::prim::ListConstruct || user.kind() == jit::prim::ListUnpack) {
    for (const jit::Value* output : user.outputs()) reach(output, spread);
    return;
  }
  if (user.kind() == jit::aten::append) return reach(user.input(0), spread);
  const std::string name = base_name(user);
  if (operand == 0 && name.starts_with("add") && name != "add") return;  // `addcmul`, `addmm`: another product is added
  switch (op_kind(user)) {
    case OpKind::kReshape: {
      const bool thin = name == "unsqueeze" || shapes_.of(user.output()).last == 1;
      return reach(user.output(), spread || thin);
    }
    case OpKind::kCopy:
    case OpKind::kMoveAxis:
    case OpKind::kSlice:
    case OpKind::kSelect:
    case OpKind::kSplit:
    case OpKind::kRepeat:
    case OpKind::kScoring:
    case OpKind::kMaskedFill:
    case OpKind::kWhere:
    case OpKind::kGather:
    case OpKind::kScatter:
    case OpKind::kIndexWrite:
    case OpKind::kConcatenate:
      for (const jit::Value* output : user.outputs()) reach(output, spread);
      return;
    case OpKind::kIndex:
      if (operand == 0) reach(user.output(), spread);
      return;
    case OpKind::kElementwise:
      if (!meets_other(user)) reach(user.output(), spread);
      return;
    case OpKind::kMultiply:
      return meets_other(user) ? meet(spread) : reach(user.output(), spread);
    case OpKind::kContract:
      if (meets_other(user)) meet(spread);
      return;
    default:
      return;
  }
}

}  // namespace

LaterProduct later_product(const jit::Value* product, const ValueOrigins& origins, KnownShapes& shapes) {
  return LaterProducts(origins, shapes).of(product);
}

}  // namespace moetap::hooks
