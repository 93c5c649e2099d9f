#include "hooks/routers/scaled_scores.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

#include "hooks/graph/in_place_writes.h"
#include "hooks/graph/known_numbers.h"
#include "hooks/graph/known_shapes.h"
#include "hooks/graph/op_traits.h"
#include "hooks/routers/slot_pieces.h"
#include "hooks/routers/taken_ids.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

class ScaledScores {
 public:
  ScaledScores(const MethodGraph& graph, const FoundRouter& router)
      : graph_(graph), router_(router), taken_(graph, router), shapes_(graph) {}

  /// `exactly`: without factors, as in front of a scoring function.
  bool holds(const jit::Value* value, bool exactly = false) {
    auto& known = exactly ? exact_ : scaled_;
    const auto [entry, is_new] = known.emplace(value, false);
    if (!is_new) return entry->second;
    const bool holds = !changed_through_view(value) && made_of_scores(value, exactly);
    return known[value] = holds;
  }
  /// The ids that the router reports are those at which the scores were taken.
  bool are_at_ids() const {
    return (router_.form != "slots" && router_.form != "kept") || taken_.empty() ||
           std::all_of(router_.selected.begin(), router_.selected.end(),
                       [this](const jit::Value* ids) { return taken_.hold(ids); });
  }
  /// Of what was asked for, a factor may differ between the slots of a token.
  bool by_factors_of_experts() const { return by_factors_of_experts_; }

 private:
  bool made_of_scores(const jit::Value* value, bool exactly);
  bool taken_at(const jit::Value* ids) {
    if (is_tensor(ids)) taken_.add(ids);
    return true;
  }
  bool all_hold(const jit::Value* list, bool exactly) {
    const auto inputs = list->node()->inputs();
    return list->node()->kind() == jit::prim::ListConstruct &&
           std::all_of(inputs.begin(), inputs.end(), [&](const jit::Value* each) { return holds(each, exactly); });
  }
  bool is_factor(const jit::Value* value);
  // What a reduced value is one factor for.
  enum class SharedBy { kSlotsOfAToken, kSlotsOfAllTokens, kOthers };
  SharedBy shared_by(const jit::Node& reduction);
  bool is_mask(const jit::Value* value) const;
  bool multiplies_by_factor(const jit::Node& node) {
    const std::string name = base_name(node);
    return (name == "mul" || name == "div" || name == "multiply" || name == "true_divide" || name == "divide") &&
           node.inputs().size() == 2 && is_factor(node.input(1));
  }
  bool changed_through_view(const jit::Value* value);

  // Scores are followed through this scoring function, and through the softmax of selected ones.
  bool is_known_scoring(const std::string& name) const {
    return name.ends_with("softmax") || (name == "sigmoid" && router_.scoring.starts_with("sigmoid"));
  }
  // Takes a slot out: before a softmax over the slots, or behind it.
  bool takes_out(const jit::Value* value) const {
    const auto constant = constant_number(graph_, value);
    if (constant) return *constant == 0 || *constant <= kClosedScore;
    return base_name(*value->node()).starts_with("zeros") || base_name(*value->node()) == "new_zeros";
  }

  const MethodGraph& graph_;
  const FoundRouter& router_;
  TakenIds taken_;
  KnownShapes shapes_;
  bool by_factors_of_experts_ = false;
  std::unordered_map<const jit::Value*, bool> scaled_, exact_, factors_;  // false while it is being found out
};

// `w[:, 1:].pow_(2)` stands beside the way from the weights to the scores.
bool ScaledScores::changed_through_view(const jit::Value* value) {
  for (const jit::Use& use : value->uses()) {
    if (use.offset != 0 || !may_be_view(*use.user)) continue;
    const jit::Value* view = use.user->outputs()[0];
    if (changed_through_view(view)) return true;
    for (const jit::Use& of_view : view->uses()) {
      if (of_view.offset != 0 || !is_in_place(*of_view.user)) continue;
      if (!multiplies_by_factor(*of_view.user)) return true;
      by_factors_of_experts_ = true;
    }
  }
  return false;
}

bool ScaledScores::made_of_scores(const jit::Value* value, bool exactly) {
  if (value == router_.scores || value == router_.logits || value == router_.choice) return true;
  const jit::Node& node = *value->node();
  if (node.kind() == jit::prim::ListUnpack) return holds(node.input(0), exactly);
  if (node.maybeSchema() == nullptr || node.inputs().empty()) return false;
  switch (op_kind(node)) {
    case OpKind::kMoveAxis:  // not behind ids that have another order
      return !turns_elements(node) && holds(node.input(0), exactly);
    case OpKind::kCopy:
    case OpKind::kReshape:
    case OpKind::kSlice:
    case OpKind::kSelect:
    case OpKind::kSplit:
    case OpKind::kRepeat:
      return holds(node.input(0), exactly);
    case OpKind::kGather:
      return holds(node.input(0), exactly) && taken_at(node.input(2));
    case OpKind::kIndex:
      return holds(node.input(0), exactly) && taken_at(index_of(node));
    case OpKind::kPick:
      return value == node.outputs()[0] && node.outputs().size() == 2 && holds(node.input(0), exactly) &&
             taken_at(node.outputs()[1]);
    case OpKind::kScoring:
      return is_known_scoring(base_name(node)) && holds(node.input(0), /*exactly=*/true);
    case OpKind::kConcatenate:
      return joins_pieces_in_order(node) && all_hold(node.input(0), exactly);
    case OpKind::kMaskedFill:
      if (!exactly && constant_number(graph_, node.input(2)) == 0.0) taken_.add_unused(node.input(1));
      return takes_out(node.input(2)) && holds(node.input(0), exactly);
    case OpKind::kWhere:
      return (holds(node.input(1), exactly) && takes_out(node.input(2))) ||
             (takes_out(node.input(1)) && holds(node.input(2), exactly));
    case OpKind::kScatter:
      return takes_out(node.input(0)) && holds(node.input(3), exactly) && taken_.hold(node.input(2));
    case OpKind::kMultiply:
      return !exactly && ((holds(node.input(0)) && multiplies_by_factor(node)) ||
                          (node.inputs().size() == 2 && is_factor(node.input(0)) && holds(node.input(1))));
    case OpKind::kElementwise:
      return !exactly && multiplies_by_factor(node) && holds(node.input(0));
    default:
      return false;
  }
}

// Ones and zeros.
bool ScaledScores::is_mask(const jit::Value* value) const {
  while (may_be_view(*value->node())) value = value->node()->input(0);
  const OpKind kind = op_kind(*value->node());
  if (kind == OpKind::kMultiply && value->node()->inputs().size() == 2) {
    return is_mask(value->node()->input(0)) && is_mask(value->node()->input(1));
  }
  return kind == OpKind::kCompare || kind == OpKind::kLogical || kind == OpKind::kOneHot;
}

ScaledScores::SharedBy ScaledScores::shared_by(const jit::Node& reduction) {
  if (!reduction.schema().argumentIndexWithName("dim")) return SharedBy::kSlotsOfAToken;  // all are
  const jit::Value* argument = reduction.namedInput("dim");
  if (const auto none = graph_.constant(argument); none && none->isNone()) return SharedBy::kSlotsOfAToken;
  const auto dims = graph_.constant_ints(argument);
  if (!dims || dims->empty()) return SharedBy::kOthers;
  const auto rank = shapes_.of(reduction.input(0)).rank;
  std::set<int64_t> reduced;  // counted from the end
  for (const auto& dim : *dims) {
    if (!dim || (*dim >= 0 && !rank)) return SharedBy::kOthers;
    reduced.insert(*dim >= 0 ? *dim - *rank : *dim);
  }
  int64_t slots = router_.weights_dim;
  if (slots >= 0 && rank) slots -= *rank;
  const bool over_slots = reduced.contains(slots);
  const bool over_tokens = rank && static_cast<int64_t>(reduced.size()) == *rank - (over_slots ? 0 : 1);
  if (over_tokens) return over_slots ? SharedBy::kSlotsOfAToken : SharedBy::kSlotsOfAllTokens;
  return over_slots && reduced.size() == 1 ? SharedBy::kSlotsOfAToken : SharedBy::kOthers;
}

// One for all slots, or one a token, a slot or an expert: a constant, a parameter, a sum of the scores; or a mask.
bool ScaledScores::is_factor(const jit::Value* value) {
  if (is_mask(value)) return true;
  if (const auto constant = graph_.constant(value)) {
    if (constant->isTensor() && constant->toTensor().numel() > 1) by_factors_of_experts_ = true;
    return true;
  }
  const auto [entry, is_new] = factors_.emplace(value, false);
  if (!is_new) return entry->second;
  const jit::Node& node = *value->node();
  const auto is_tensor_factor = [this](const jit::Value* input) {
    return !is_tensor(input) || (is_factor(input) && !is_mask(input));
  };
  bool factor = false;
  switch (op_kind(node)) {
    case OpKind::kReduce: {
      const SharedBy shared = shared_by(node);
      if (shared == SharedBy::kSlotsOfAllTokens) by_factors_of_experts_ = true;
      factor = shared != SharedBy::kOthers && holds(node.input(0));
      break;
    }
    case OpKind::kIndex:
    case OpKind::kGather:
      factor = is_factor(node.input(0));
      break;
    case OpKind::kCopy:
    case OpKind::kReshape:
    case OpKind::kMoveAxis:
    case OpKind::kSlice:
    case OpKind::kSelect:
    case OpKind::kRepeat:
    case OpKind::kElementwise:
    case OpKind::kMultiply:
      factor = std::all_of(node.inputs().begin(), node.inputs().end(), is_tensor_factor);
      break;
    default:
      break;
  }
  return factors_[value] = factor;
}

}  // namespace

bool scores_are_plain(const MethodGraph& graph, const FoundRouter& router) {
  if (router.scores_of_other_logits) return false;
  const jit::Value* value = router.scores;
  while (value != nullptr && !is_written(value) && may_be_view(*value->node()) &&
         op_kind(*value->node()) != OpKind::kSlice) {
    value = value->node()->input(0);
  }
  if (value == nullptr || is_written(value) || op_kind(*value->node()) != OpKind::kScoring) return false;
  const jit::Node& node = *value->node();
  const auto constant = [&](const char* argument) -> std::optional<c10::IValue> {
    return node.schema().argumentIndexWithName(argument) ? graph.constant(node.namedInput(argument)) : std::nullopt;
  };
  const auto dim = constant("dim"), beta = constant("beta");
  if (dim && dim->isInt() && dim->toInt() == 0 && router.scores_dim != 0) return false;
  return !beta || !beta->isScalar() || beta->toScalar().toDouble() == 1;
}

ScaledWeights scaled_weights(const MethodGraph& graph, const FoundRouter& router) {
  ScaledScores scaled(graph, router);
  ScaledWeights weights;
  weights.are_scaled_scores = !router.weights.empty() && router.weights_of_other_arms.empty() &&
                              std::all_of(router.weights.begin(), router.weights.end(),
                                          [&](const jit::Value* each) { return scaled.holds(each); }) &&
                              scaled.are_at_ids();
  weights.have_factors_of_experts = scaled.by_factors_of_experts();
  if (router.claims_scaled_scores && !weights.are_scaled_scores) {
    weights.are_scaled_scores = weights.have_factors_of_experts = true;
  }
  return weights;
}

}  // namespace moetap::hooks
