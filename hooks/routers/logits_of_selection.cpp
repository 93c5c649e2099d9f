#include "hooks/routers/logits_of_selection.h"

#include <algorithm>
#include <set>
#include <string>

#include "hooks/graph/known_numbers.h"
#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

const jit::Value* behind_copies(const jit::Value* value) {
  while (!value->node()->inputs().empty() &&
         (op_kind(*value->node()) == OpKind::kCopy || op_kind(*value->node()) == OpKind::kReshape)) {
    value = value->node()->input(0);
  }
  return value;
}

using Seen = std::set<const jit::Value*>;

// True if `value` is made of the projection's result by masks and arithmetic alone: nothing scores on the way. An
// exponential does, as that of Sinkhorn.
bool is_unscored(const MethodGraph& graph, const jit::Value* value, const jit::Node& projection, Seen& seen) {
  const jit::Node& node = *value->node();
  if (&node == &projection) return true;
  if (node.inputs().empty() || graph.order(&node) < graph.order(&projection) || !seen.insert(value).second)
    return false;
  const std::string name = base_name(node);
  switch (op_kind(node)) {
    case OpKind::kElementwise:
      if (name.find("exp") != std::string::npos || name == "pow") return false;
      [[fallthrough]];
    case OpKind::kMultiply:
    case OpKind::kWhere:
      return std::any_of(node.inputs().begin(), node.inputs().end(), [&](const jit::Value* input) {
        return is_tensor(input) && is_unscored(graph, input, projection, seen);
      });
    case OpKind::kReduce:  // over tokens, where the experts are left
      if (name.find("exp") != std::string::npos) return false;
      [[fallthrough]];
    case OpKind::kMixOther:
    case OpKind::kCopy:
    case OpKind::kReshape:
    case OpKind::kMoveAxis:
    case OpKind::kSlice:
    case OpKind::kSelect:
    case OpKind::kRepeat:
    case OpKind::kGather:
    case OpKind::kIndex:
    case OpKind::kMaskedFill:
    case OpKind::kScatter:
    case OpKind::kIndexWrite:
      return is_unscored(graph, node.input(0), projection, seen);
    case OpKind::kCumulate:
      return name == "cumsum" && is_unscored(graph, node.input(0), projection, seen);
    case OpKind::kConcatenate: {
      const auto parts = list_elements(node.input(0));
      return std::any_of(parts.begin(), parts.end(),
                         [&](const jit::Value* part) { return is_unscored(graph, part, projection, seen); });
    }
    default:
      return false;
  }
}

// What the scoring function that gave `score` reads; null if that is not seen.
jit::Value* scored(jit::Value* score) {
  for (int steps = 0; score != nullptr && steps < 32 && !score->node()->inputs().empty(); ++steps) {
    jit::Node* node = score->node();
    switch (op_kind(*node)) {
      case OpKind::kScoring:
        return node->input(0);
      case OpKind::kCopy:
      case OpKind::kReshape:
      case OpKind::kElementwise:
        score = node->input(0);
        break;
      default:
        return nullptr;
    }
  }
  return nullptr;
}

// True for what closes experts where it is added: -inf or a large negative number is in it.
bool closes_experts(const MethodGraph& graph, const jit::Value* added, Seen& seen) {
  if (!seen.insert(added).second) return false;
  if (const auto constant = graph.constant(added)) {
    if (constant->isScalar()) return constant->toScalar().toDouble() <= kClosedScore;
    return constant->isTensor() && constant->toTensor().defined() && constant->toTensor().numel() > 0 &&
           !constant->toTensor().is_complex() && constant->toTensor().min().item().toDouble() <= kClosedScore;
  }
  const auto inputs = added->node()->inputs();
  return std::any_of(inputs.begin(), inputs.end(),
                     [&](const jit::Value* input) { return closes_experts(graph, input, seen); });
}

// The value without biases that parameters add to it at last.
const jit::Value* without_biases(const MethodGraph& graph, const ValueOrigins& origins, const jit::Value* value) {
  for (;;) {
    value = behind_copies(value);
    const jit::Node& node = *value->node();
    const std::string name = base_name(node);
    if ((name != "add" && name != "sub") || !is_tensor(node.input(1))) return value;
    const auto is_bias = [&](const jit::Value* operand) {
      Seen seen;
      return origins.of(operand) <= Origin::kParameter && !closes_experts(graph, operand, seen);
    };
    if (is_bias(node.input(1))) {
      value = node.input(0);
    } else if (name == "add" && is_bias(node.input(0))) {
      value = node.input(1);
    } else {
      return value;
    }
  }
}

}  // namespace

void take_reduced_logits(const Pick& pick, FoundRouter& router) {
  jit::Value* read = pick.node->input(0);
  jit::Value* before = scored(read);
  router.logits = before != nullptr ? before : read;
  router.scores = nullptr;
  router.scoring = "other";
  router.expert_dim = router.logits_dim = pick.dim.value_or(-1);
}

// Note [Logits of a limited selection]
// Where the pick reads others than the weights are made of (masked by group limits, with noise for the selection), the
// logits are those that the pick reads, or the scoring function before it. The weights keep their own scores. A bias of
// an expert that is added for the selection alone is left out, as one that is added to scores.
void take_logits_of_selection(const MethodGraph& graph, const RouterFlow& flow, const Pick& pick, FoundRouter& router) {
  const Fact& source = pick.source;
  if (pick.foreign || router.logits == nullptr || flow.projection().node == nullptr) return;
  if (source.role != Role::kScore || source.part != 0) return;
  const int place = static_cast<int>(&pick - flow.picks().data());
  if (source.picks.contains(place)) return;  // in a loop, each time without those that were picked before
  const bool scores_first = !source.scoring.empty();
  jit::Value* score = source.score;
  if (scores_first && score == nullptr) score = pick.node->input(0);
  jit::Value* read = scores_first ? scored(score) : pick.node->input(0);
  if (read == nullptr || !visible_from(read, router.selected.back()->node())) return;
  const jit::Value* logits = behind_copies(router.logits);
  if (behind_copies(read) == logits || without_biases(graph, flow.origins(), read) == logits) return;
  Seen seen;
  if (!is_unscored(graph, read, *flow.projection().node, seen)) return;
  router.logits = read;
  router.logits_dim = scores_first ? source.score_dim : source.expert_dim;
  router.scores_of_other_logits = !scores_first && router.scores != nullptr;
}

}  // namespace moetap::hooks
