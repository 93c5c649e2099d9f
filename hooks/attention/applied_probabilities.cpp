#include "hooks/attention/applied_probabilities.h"

#include <algorithm>
#include <set>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_dropout(const jit::Node& node) {
  return base_name(node).ends_with("dropout");
}

/// A value on the way from the softmax to the product, and what its dimensions are.
struct Step {
  jit::Value* value;
  Places places;
};

/// Goes on from the softmax, depth first.
class OnFromSoftmax {
 public:
  OnFromSoftmax(char key_letter, const ValueOrigins& origins, AttentionAxes& axes)
      : key_letter_(key_letter), origins_(origins), axes_(axes) {}

  bool follow(jit::Value* value, const Places& places) {
    if (!seen_.insert(value).second || std::count(places.begin(), places.end(), key_letter_) != 1) return false;
    steps_.push_back({value, places});
    for (const jit::Use& use : value->uses()) {
      if (follow_use(value, places, use)) return true;
    }
    steps_.pop_back();
    return false;
  }

  const std::vector<Step>& steps() const { return steps_; }
  jit::Node* applied() const { return applied_; }

 private:
  bool applies(jit::Node* product, jit::Value* value, const Places& places) {
    const auto found = AttentionAxes::operands(product);
    if (!found || (found->left != value && found->right != value)) return false;
    const jit::Value* other = found->left == value ? found->right : found->left;
    if (!origins_.is_activation(other) || !axes_.sums_over(product, value, places, places.find(key_letter_))) {
      return false;
    }
    applied_ = product;
    return true;
  }

  // True if nothing that an operator takes beside the probabilities is a hidden state: a mask, a number, their sum.
  bool only_masks_beside(const jit::Node* node, const jit::Value* value) const {
    return std::all_of(node->inputs().begin(), node->inputs().end(), [&](const jit::Value* input) {
      if (input == value || !is_tensor(input) || !origins_.is_activation(input)) return true;
      const OpKind kind = op_kind(*input->node());
      return kind == OpKind::kReduce || is_made_by_comparison(input) ||
             (kind == OpKind::kElementwise && !input->node()->inputs().empty() &&
              op_kind(*input->node()->input(0)->node()) == OpKind::kReduce);  // clamped, or with an epsilon
    });
  }

  bool follow_use(jit::Value* value, const Places& places, const jit::Use& use) {
    jit::Node* node = use.user;
    if (node->kind() == jit::prim::Return) {
      jit::Node* owner = node->owningBlock()->owningNode();
      return owner != nullptr && owner->kind() == jit::prim::If && follow(owner->output(use.offset), places);
    }
    if (node->kind() == jit::prim::ListConstruct) {
      for (const jit::Use& listed : node->output()->uses()) {
        if (base_name(*listed.user) == "einsum" && applies(listed.user, value, places)) return true;
      }
      return false;
    }
    if (op_kind(*node) == OpKind::kContract) return applies(node, value, places);
    if (node->outputs().empty()) return false;
    switch (op_kind(*node)) {
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kMoveAxis:
      case OpKind::kSlice:
      case OpKind::kRepeat:
        if (use.offset != 0) return false;
        break;
      case OpKind::kMaskedFill:
      case OpKind::kWhere:
      case OpKind::kMultiply:
        if (!only_masks_beside(node, value)) return false;
        break;
      case OpKind::kElementwise: {
        const std::string name = base_name(*node);
        const bool kept = name == "div" || name == "nan_to_num" || name == "true_divide" || name.starts_with("clamp");
        if (!kept || use.offset != 0 || !only_masks_beside(node, value)) return false;
        break;
      }
      default:
        if (use.offset != 0 || (!is_dropout(*node) && node->kind() != jit::prim::unchecked_cast)) return false;
    }
    const auto after = axes_.through(node, value, places);
    return after && follow(node->output(0), *after);
  }

  const char key_letter_;
  const ValueOrigins& origins_;
  AttentionAxes& axes_;
  std::set<const jit::Value*> seen_;
  std::vector<Step> steps_;
  jit::Node* applied_ = nullptr;
};

bool is_inside(const jit::Node* node, const jit::Node* branch) {
  for (const jit::Block* block = node->owningBlock(); block != nullptr;) {
    const jit::Node* owner = block->owningNode();
    if (owner == branch) return true;
    block = owner == nullptr ? nullptr : owner->owningBlock();
  }
  return false;
}

// True if the operator changes which numbers the probabilities are, other than by rounding.
bool changes_values(const jit::Node& node) {
  switch (op_kind(node)) {
    case OpKind::kSlice:
    case OpKind::kMaskedFill:
    case OpKind::kWhere:
    case OpKind::kMultiply:
    case OpKind::kElementwise:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::optional<AppliedProbabilities> find_applied(jit::Value* probabilities, const Places& places, size_t keys,
                                                 const ValueOrigins& origins, AttentionAxes& axes) {
  OnFromSoftmax search(places[keys], origins, axes);
  if (!search.follow(probabilities, places)) return std::nullopt;
  const std::vector<Step>& steps = search.steps();
  AppliedProbabilities found;
  found.applied = search.applied();

  size_t last = 0, dropped = steps.size();  // the last step that changes values; the first dropout
  for (size_t i = 1; i < steps.size(); ++i) {
    const jit::Node* node = steps[i].value->node();
    const bool joins = node->kind() == jit::prim::If && last > 0 && is_inside(steps[last].value->node(), node);
    if (changes_values(*node) || joins) last = i;
    if (is_dropout(*node)) dropped = std::min(dropped, i);
    if (op_kind(*node) == OpKind::kSlice &&
        axes.dim(node->input(1), steps[i - 1].places.size()) == steps[i - 1].places.find(places[keys])) {
      found.sliced = true;
    }
  }
  found.places = steps[last].places;
  found.keys = found.places.find(places[keys]);
  if (dropped > last) {
    found.probabilities = steps[last].value;
    return found;
  }
  found.probabilities = steps[dropped - 1].value;
  for (size_t i = dropped; i <= last; ++i) {
    jit::Node* node = steps[i].value->node();
    if (is_dropout(*node)) continue;
    // Behind a branch it is not known which of its values the operators were applied to.
    if (!node->blocks().empty() || node->owningBlock() != found.probabilities->node()->owningBlock() ||
        is_in_place(*node)) {
      return std::nullopt;
    }
    found.behind_dropout.push_back(node);
  }
  return found;
}

}  // namespace moetap::hooks
