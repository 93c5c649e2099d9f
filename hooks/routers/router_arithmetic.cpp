// Transfer functions of RouterFlow for arithmetic on a followed value: norms, scoring functions, elementwise operators.
// See Note [Following a projection].
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <cmath>

#include "hooks/routers/later_products.h"
#include "hooks/routers/picked_indices.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// True for `clamp(x, 0)` and the like.
bool clamps_at_zero(const MethodGraph& graph, const jit::Node& node) {
  const std::string name = base_name(node);
  if ((name != "clamp" && name != "clamp_min" && name != "clip") || node.inputs().size() < 2) return false;
  const auto least = graph.constant(node.input(1));
  return least && least->isScalar() && least->toScalar().toDouble() == 0;
}

// True for what gives weights to all experts, where those that were not picked had none: `0.9 * gates + 0.1 / E`.
bool adds_to_unpicked(const Fact& weights, const jit::Node& node) {
  const std::string name = base_name(node);
  if (weights.picks.empty() || weights.threshold) return false;
  if (name == "lerp") return true;
  if (name == "clamp" || name == "clamp_min" || name == "clip") {
    const auto least = node.inputs().size() > 1 ? jit::toIValue(node.input(1)) : std::nullopt;
    return least && least->isScalar() && least->toScalar().toDouble() > 0;
  }
  if (name != "add" && name != "sub" && name != "rsub") return false;
  for (const jit::Value* input : node.inputs().slice(0, 2)) {  // `0 + w`, as a sum begins
    const auto number = jit::toIValue(input);
    // Nothing, or what keeps a division from 0.
    if (number && number->isScalar() && std::abs(number->toScalar().toDouble()) < 1e-6) return false;
    if (number && number->isTensor() && number->toTensor().defined() && !number->toTensor().any().item<bool>()) {
      return false;
    }
    if (op_kind(*input->node()) == OpKind::kFresh && base_name(*input->node()).find("zeros") != std::string::npos) {
      return false;
    }
  }
  return true;
}

// False for a product that goes into convolutions and nothing else.
bool adds_up(const jit::Value* product) {
  for (const auto& use : product->uses()) {
    const jit::Node& user = *use.user;
    switch (op_kind(user)) {
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kElementwise:
      case OpKind::kMultiply:
      case OpKind::kScoring:
        if (adds_up(user.output(0))) return true;
        break;
      case OpKind::kContract:
        if (base_name(user).find("conv") == std::string::npos) return true;
        break;
      default:
        return true;
    }
  }
  return product->uses().empty();
}

// True for a value that may have got a dimension of size 1 since it was picked or gathered: with it a hidden state
// makes a wider product, whatever the last dimension is. A product has one only if all its operands may.
bool may_be_thin(const jit::Value* value) {
  const jit::Node& node = *value->node();
  const auto all_thin = [&](size_t first) {
    for (const jit::Value* input : node.inputs().slice(first)) {
      if (is_tensor(input) && !may_be_thin(input)) return false;
    }
    return true;
  };
  switch (op_kind(node)) {
    case OpKind::kPick:
    case OpKind::kGather:
    case OpKind::kScatter:
    case OpKind::kContract:
      return false;
    case OpKind::kReduce:
      return std::any_of(node.inputs().begin(), node.inputs().end(), [](const jit::Value* input) {
        return input->type()->kind() == c10::TypeKind::BoolType && jit::constant_as<bool>(input).value_or(true);
      });
    case OpKind::kElementwise:
    case OpKind::kMultiply:
      return all_thin(0);
    case OpKind::kWhere:
      return all_thin(1);
    case OpKind::kCopy:
    case OpKind::kScoring:
    case OpKind::kMaskedFill:
    case OpKind::kIndexWrite:
      return may_be_thin(node.input(0));
    default:
      return true;
  }
}

}  // namespace

// Note [A factor or a hidden state]
// Weights that are multiplied by a gate of each token are weights still, weights that meet a hidden state have been
// applied. The widths tell where the graph fixes them: only a hidden state makes the product wider. Several slots side
// by side meet no wider value in their last dimension, so that the other's width need not be known there. Where nothing
// fixes a width, the later use of the product decides (later_product): weights that were applied meet no other hidden
// state. If they do, and got no dimension for it, either may be the factor: the router is refused by name.
RouterFlow::ProductWidth RouterFlow::product_width(const jit::Value* value, const jit::Value* partner) {
  const auto own = shapes_.of(value).last, other = shapes_.of(partner).last;
  if (other == 1) return ProductWidth::kSame;
  if (own && *own > 1 && !may_be_thin(value)) {
    return !other || *other == *own ? ProductWidth::kSame : ProductWidth::kWider;
  }
  if (!own || !other) return ProductWidth::kUnknown;
  // Weights that got a dimension of size 1 are wider behind a product with what has none.
  const auto unsqueezed = [](const jit::Value* of) { return base_name(*of->node()) == "unsqueeze"; };
  return *own == *other && (!unsqueezed(value) || unsqueezed(partner)) ? ProductWidth::kSame : ProductWidth::kWider;
}

// A norm over the experts: new logits. Hidden states are normalised, too; those end at the next projection.
void RouterFlow::follow_norm(jit::Node* node) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr || found->role != Role::kScore || !found->picks.empty() || found->score != nullptr) return;
  if (!base_name(*node).ends_with("norm")) return;
  Fact result = derived(*found, node, Role::kScore);
  change_scores(result, *found, node->output(0));
  set(node->output(0), result);
}

void RouterFlow::follow_scoring(jit::Node* node) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  const std::string name = base_name(*node);
  Fact result = derived(*found, node, found->role);
  result.filled = false;  // what was closed by a large negative number has no weight, whatever was added to it
  if (!found->aligned) {
    lose_alignment(result);
    if (carries_weights(*found)) change_in_order(result, node->output());
  }
  if (found->role == Role::kScore) {
    if (result.score == nullptr && result.scoring.empty()) {
      result.scoring = name;
      result.score = found->picks.empty() ? node->output() : nullptr;
      result.score_dim = result.expert_dim;
      if (!found->picks.empty() && found->scoring.empty()) result.slot_scoring = name;
    } else if (result.score == found->base && result.score != nullptr && !result.biased) {
      result.score = node->output();
    }
    if (found->picks.empty() && name == "relu") result.threshold = result.by_sign = true;
  } else if (found->role == Role::kSlot) {
    if (result.slot_scoring.empty()) result.slot_scoring = name;
    result.parent = nullptr;
  } else if (found->role != Role::kStat) {
    return;
  }
  set(node->output(), result);
}

void RouterFlow::follow_elementwise(jit::Node* node, OpKind kind) {
  std::vector<jit::Value*> operands;
  for (jit::Value* input : node->inputs()) {
    if (is_tensor(input)) operands.push_back(input);
  }
  if (operands.empty() || node->outputs().empty()) return;
  const std::string name = base_name(*node);
  if (name == "addcmul") operands.erase(operands.begin());  // what the product is added to
  const Fact* left = fact(operands[0]);
  const Fact* right = operands.size() > 1 ? fact(operands[1]) : nullptr;
  if (left != nullptr && right != nullptr) {
    const Fact left_fact = *left, right_fact = *right;
    if (auto result = combine(node, left_fact, right_fact, kind)) set(node->output(), *result);
    return;
  }
  const Fact* found = left != nullptr ? left : right;
  if (found == nullptr) return;
  const Fact own = *found;
  const jit::Value* partner = operands.size() > 1 ? operands[left != nullptr ? 1 : 0] : nullptr;
  const bool hidden = partner != nullptr && origins_.is_activation(partner) && !is_made_by_comparison(partner);
  if (ends_at(node, own, partner)) return;
  const bool carries = own.role == Role::kSlot || own.role == Role::kScore || own.role == Role::kMask;
  ProductWidth width = ProductWidth::kWider;
  if (hidden && carries) width = product_width(operands[left != nullptr ? 0 : 1], partner);
  bool unsure = false;
  if (width == ProductWidth::kUnknown && kind == OpKind::kMultiply && carries_weights(own)) {
    const LaterProduct later = later_product(node->output(), origins_, shapes_);
    if (later == LaterProduct::kSpread) width = ProductWidth::kSame;
    unsure = later == LaterProduct::kAnother;
  }
  const bool narrow = width == ProductWidth::kSame;
  if (hidden && kind == OpKind::kMultiply) {
    const bool before_pick = own.role == Role::kScore && !carries_weights(own);
    const bool similarity = own.role == Role::kChosen && (own.own || weighs_by_vectors(own, *node));
    // Experts' outputs are added up. Channels of which some are left out are not.
    const bool over_experts = own.role == Role::kScore && !own.picks.empty() && !own.column && !own.per_expert;
    const bool channels = over_experts && !precedes_projection(partner) && !adds_up(node->output());
    if ((!narrow || before_pick) && !similarity && !channels) {
      const size_t first = events_.size();
      meet(node, own, partner);
      for (size_t i = first; i < events_.size(); ++i) events_[i].unsure = unsure;
    }
    // Scores that scale or are scaled by hidden states before any pick may still be logits (a learned temperature).
    if (!narrow && !similarity && !(before_pick && own.score == nullptr)) return;
  }
  const bool of_vectors = hidden && kind == OpKind::kMultiply && weighs_by_vectors(own, *node);
  if (hidden && own.role == Role::kChosen && !own.own && !of_vectors) return;  // a bias of the chosen expert
  Fact result = derived(own, node, own.role);
  // What one expert's part of a mask weighs by other numbers: no tensor over the experts holds these weights.
  if (hidden && own.role == Role::kMask && own.threshold && !own.aligned) result.rewritten = true;
  switch (own.role) {
    case Role::kScore:
      if (own.picks.empty() && clamps_at_zero(graph_, *node)) {
        result.threshold = result.by_sign = true;
        if (own.score == nullptr && own.scoring.empty()) {  // as `relu`
          result.scoring = "relu";
          result.score = node->output();
          result.score_dim = result.expert_dim;
          break;
        }
      }
      if (own.picks.empty() && name == "threshold") result.threshold = true;
      if (!own.aligned) {
        lose_alignment(result);
        if (!own.picks.empty()) change_in_order(result, node->output());
      }
      if (own.score == nullptr) {
        change_scores(result, own, node->output());
      } else if (own.score == own.base && !own.biased) {
        const bool shifts = partner != nullptr && (name == "add" || name == "sub");
        // The scores of another head, or a factor of each group: no function of these logits, but logits of their own.
        const bool by_other_scores = hidden && kind == OpKind::kMultiply && own.picks.empty() &&
                                     (own.grouped || shapes_.of(partner).last.value_or(1) > 1);
        if (by_other_scores) {
          result.score = nullptr;
          result.scoring.clear();
          result.logits = node->output();
          result.logits_dim = result.expert_dim;
          break;
        }
        if (shifts)
          result.biased = true;
        else if (own.picks.empty())
          result.score = node->output();
        if (!shifts && name == "sqrt") result.scoring = "sqrt" + own.scoring;
      } else if (partner != nullptr && (name == "add" || name == "sub")) {
        result.biased = true;
      }
      result.filled = (own.filled && !name.starts_with("exp")) || adds_to_unpicked(own, *node);
      break;
    case Role::kSlot:
      if (hidden && name != "div" && width == ProductWidth::kWider) return;
      if (kind == OpKind::kMultiply && partner != nullptr) result.zero_unless.push_back(kept_by(partner, true));
      if (!own.aligned) {
        lose_alignment(result);
        change_in_order(result, node->output());
      }
      break;
    case Role::kIds:
      if (name == "fill") note_written_ids(node->input(1));
      result = own;
      if (hidden && are_picked(partner)) result.joined = true;  // by another router: a group, and one inside it
      return follow_numbers(node, result, operands[left != nullptr ? 0 : 1]);
    case Role::kMask:
    case Role::kStat:
    case Role::kOrder:
    case Role::kChosen:
    case Role::kRouted:
      break;
  }
  set(node->output(), result);
}

}  // namespace moetap::hooks
