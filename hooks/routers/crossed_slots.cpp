#include "hooks/routers/crossed_slots.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "hooks/routers/router_events.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr size_t kMostValues = 2000;  // that are looked at for one application
constexpr int kMostSteps = 8;

bool is_piece(const Fact& fact) {
  return fact.place >= 0 || fact.place_in_run != nullptr;
}

// True for numbers that are computed alike.
bool same_number(const jit::Value* a, const jit::Value* b, int steps) {
  if (a == b) return true;
  const auto first = jit::toIValue(a), second = jit::toIValue(b);
  if (first && second) return first->isInt() && second->isInt() && first->toInt() == second->toInt();
  const jit::Node &left = *a->node(), &right = *b->node();
  if (steps == 0 || first || second || left.kind() != right.kind() || left.inputs().empty() || !left.blocks().empty() ||
      left.inputs().size() != right.inputs().size() || a->offset() != b->offset()) {
    return false;
  }
  for (size_t i = 0; i < left.inputs().size(); ++i) {
    if (!same_number(left.input(i), right.input(i), steps - 1)) return false;
  }
  return true;
}

/// The uses of ids that a hidden state comes from, the latest on each way.
class ChoicesBehind {
 public:
  ChoicesBehind(const MethodGraph& graph, const RouterFlow& flow) : graph_(graph), flow_(flow) {
    for (const Event& event : flow.events()) {
      if (is_strong(event.kind) && !event.what.ordinal) choices_[event.node].push_back(&event.what);
    }
  }

  std::vector<const Fact*> of(const jit::Value* hidden) const {
    std::vector<const Fact*> found;
    std::vector<const jit::Value*> open = {hidden};
    std::unordered_set<const jit::Value*> seen = {hidden};
    for (size_t i = 0; i < open.size() && i < kMostValues; ++i) {
      const jit::Node* node = open[i]->node();
      if (const auto choice = choices_.find(node); choice != choices_.end()) {
        found.insert(found.end(), choice->second.begin(), choice->second.end());
        continue;
      }
      const jit::Node* projection = flow_.projection().node;
      const bool before = projection != nullptr && graph_.order(node) <= graph_.order(projection);
      if (before || node->kind() == jit::prim::Param) continue;
      for (const jit::Value* input : node->inputs()) {
        if (flow_.fact(input) == nullptr && seen.insert(input).second) open.push_back(input);
      }
    }
    return found;
  }

 private:
  const MethodGraph& graph_;
  const RouterFlow& flow_;
  std::unordered_map<const jit::Node*, std::vector<const Fact*>> choices_;
};

}  // namespace

bool are_of_other_slots(const Fact& weights, const Fact& ids) {
  if (!is_piece(weights) || !is_piece(ids)) return false;
  if (weights.place >= 0 && ids.place >= 0) return weights.place != ids.place;
  if (weights.place_in_run == nullptr || ids.place_in_run == nullptr) return true;
  return !same_number(weights.place_in_run, ids.place_in_run, kMostSteps);
}

bool crosses_slots(const MethodGraph& graph, const RouterFlow& flow) {
  const ChoicesBehind choices(graph, flow);
  return std::any_of(flow.events().begin(), flow.events().end(), [&](const Event& event) {
    if (event.kind != EventKind::kAppliesWeights || event.what.role != Role::kSlot || !is_piece(event.what))
      return false;
    bool crossed = false;
    for (const jit::Value* hidden : event.node->inputs()) {
      if (!is_tensor(hidden) || flow.fact(hidden) != nullptr) continue;
      for (const Fact* ids : choices.of(hidden)) {
        if (!is_piece(*ids)) continue;
        if (!are_of_other_slots(event.what, *ids)) return false;
        crossed = true;
      }
    }
    return crossed;
  });
}

}  // namespace moetap::hooks
