#include "hooks/routers/applied_weights.h"

#include <algorithm>

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

// One value that several were cut from, if there is one.
jit::Value* common_parent(const RouterFlow& flow, const std::vector<jit::Value*>& values) {
  std::vector<jit::Value*> lineage;
  for (jit::Value* value = values[0]; value != nullptr;) {
    lineage.push_back(value);
    const Fact* fact = flow.fact(value);
    value = fact == nullptr ? nullptr : fact->parent;
  }
  for (jit::Value* ancestor : lineage) {
    const bool of_all = std::all_of(values.begin(), values.end(), [&](jit::Value* value) {
      while (value != nullptr && value != ancestor) {
        const Fact* fact = flow.fact(value);
        value = fact == nullptr ? nullptr : fact->parent;
      }
      return value == ancestor;
    });
    if (of_all) return ancestor;
  }
  return nullptr;
}

// True for weights of one slot each, for all slots of `selected`; puts them in the slots' order.
bool one_for_each_slot(const RouterFlow& flow, std::vector<jit::Value*>& weights, const jit::Value* selected) {
  const Fact* ids = flow.fact(selected);
  if (ids == nullptr || ids->num_slots != static_cast<int64_t>(weights.size())) return false;
  const auto place = [&](const jit::Value* value) {
    return flow.fact(value) == nullptr ? -1 : flow.fact(value)->place;
  };
  std::sort(weights.begin(), weights.end(),
            [&](const jit::Value* a, const jit::Value* b) { return place(a) < place(b); });
  for (size_t i = 0; i < weights.size(); ++i) {
    if (place(weights[i]) != static_cast<int>(i)) return false;
  }
  return true;
}

}  // namespace

bool in_different_arms(const std::vector<jit::Value*>& values) {
  for (const jit::Value* value : values) {
    for (const jit::Value* other : values) {
      if (value != other && visible_from(value, other->node())) return false;
    }
  }
  return values.size() > 1;
}

std::vector<jit::Value*> applied_weights(const MethodGraph& graph, const RouterFlow& flow,
                                         const std::vector<jit::Value*>& selected) {
  std::vector<jit::Value*> applied;
  // Weights that scale an expert's output; those that scale its input only where none do.
  const bool on_outputs = std::any_of(flow.events().begin(), flow.events().end(), [](const Event& event) {
    return event.kind == EventKind::kAppliesWeights && !event.on_input && !event.what.weights.empty();
  });
  for (const Event& event : flow.events()) {
    if (event.kind != EventKind::kAppliesWeights || (on_outputs && event.on_input)) continue;
    for (jit::Value* weights : event.what.weights) {
      if (std::find(applied.begin(), applied.end(), weights) == applied.end()) applied.push_back(weights);
    }
  }
  if (applied.size() <= 1 || in_different_arms(applied)) return applied;
  if (jit::Value* parent = common_parent(flow, applied)) return {parent};
  std::sort(applied.begin(), applied.end(),
            [&](const jit::Value* a, const jit::Value* b) { return graph.order(a->node()) < graph.order(b->node()); });
  if (selected.size() == 1 && one_for_each_slot(flow, applied, selected[0])) return applied;
  if (selected.size() <= 1) return {applied.back()};
  // One tensor for each slot: the last weights that were made with the slot's ids.
  std::vector<jit::Value*> weights;
  for (jit::Value* ids : selected) {
    jit::Value* own = nullptr;
    for (jit::Value* candidate : applied) {
      const Fact* fact = flow.fact(candidate);
      if (fact != nullptr && !fact->ids.empty() && fact->ids[0] == ids) own = candidate;
    }
    if (own == nullptr) return {applied.back()};
    weights.push_back(own);
  }
  return weights;
}

bool has_changed_weights(const RouterFlow& flow) {
  return std::any_of(flow.events().begin(), flow.events().end(),
                     [](const Event& event) { return event.kind == EventKind::kAppliesWeights && event.what.changed; });
}

const Fact* only_permuted_weights(const RouterFlow& flow) {
  const Fact* only = nullptr;
  for (const Event& event : flow.events()) {
    if (event.kind != EventKind::kAppliesWeights) continue;
    const Fact& what = event.what;
    if (!what.changed || what.order == nullptr || what.role != Role::kSlot) return nullptr;
    if (only != nullptr && (what.permuted != only->permuted || what.order != only->order)) return nullptr;
    only = &what;
  }
  return only;
}

}  // namespace moetap::hooks
