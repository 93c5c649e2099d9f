#include "hooks/routers/applied_weights.h"

#include <algorithm>
#include <set>

#include "hooks/routers/choices_behind.h"

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

// True if `value` was made of `from`, by what is followed alone: not by what came out of the experts.
bool is_made_of(const RouterFlow& flow, const jit::Value* value, const jit::Value* from) {
  std::vector<const jit::Value*> open = {value};
  std::set<const jit::Value*> seen = {value};
  for (size_t i = 0; i < open.size(); ++i) {
    if (open[i] == from) return true;
    for (const jit::Value* input : tensors_read(*open[i]->node())) {
      if (flow.fact(input) != nullptr && seen.insert(input).second) open.push_back(input);
    }
  }
  return false;
}

using Applications = std::vector<const Event*>;

std::vector<jit::Value*> weights_of(const Applications& applications) {
  std::vector<jit::Value*> weights;
  for (const Event* event : applications) {
    for (jit::Value* each : event->what.weights) {
      if (std::find(weights.begin(), weights.end(), each) == weights.end()) weights.push_back(each);
    }
  }
  return weights;
}

// Of several applications, those whose hidden state comes from chosen experts, where some do: what the weights leave of
// one, `1 - w`, weighs another branch.
Applications of_chosen_experts(const MethodGraph& graph, const RouterFlow& flow, const Applications& all) {
  const ChoicesBehind choices(graph, flow);
  Applications of_chosen;
  for (const Event* event : all) {
    if (event->hidden != nullptr && !choices.of(event->hidden).empty()) of_chosen.push_back(event);
  }
  return of_chosen.empty() ? all : of_chosen;
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
  // Weights that scale an expert's output; those that scale its input only where none do.
  const bool on_outputs = std::any_of(flow.events().begin(), flow.events().end(), [](const Event& event) {
    return event.kind == EventKind::kAppliesWeights && !event.on_input && !event.what.weights.empty();
  });
  Applications applications;
  for (const Event& event : flow.events()) {
    if (event.kind == EventKind::kAppliesWeights && !(on_outputs && event.on_input)) applications.push_back(&event);
  }
  std::vector<jit::Value*> applied = weights_of(applications);
  if (applied.size() > 1) applied = weights_of(of_chosen_experts(graph, flow, applications));
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

bool weighs_in_several_ways(const MethodGraph& graph, const RouterFlow& flow, const std::vector<jit::Value*>& selected,
                            const std::vector<jit::Value*>& weights) {
  if (selected.size() != 1 || weights.size() != 1) return false;
  const Fact* own = flow.fact(weights[0]);
  if (own == nullptr || own->role != Role::kSlot || !own->aligned) return false;
  Applications applications;
  for (const Event& event : flow.events()) {
    if (event.kind == EventKind::kAppliesWeights && !event.on_input) applications.push_back(&event);
  }
  if (weights_of(applications).size() < 2) return false;
  for (const jit::Value* other : weights_of(of_chosen_experts(graph, flow, applications))) {
    const Fact* fact = flow.fact(other);
    if (fact == nullptr || fact->role != Role::kSlot || fact->place >= 0 || fact->place_in_run != nullptr) continue;
    if (!is_made_of(flow, weights[0], other) && !is_made_of(flow, other, weights[0]) &&
        !in_different_arms({weights[0], const_cast<jit::Value*>(other)})) {
      return true;
    }
  }
  return false;
}

// Only numbers that are seen to be scored, projected or chosen count, one for each token: a mask of the arguments
// leaves padding out, and is no weight.
bool is_weighed_by_others(const MethodGraph& graph, const RouterFlow& flow) {
  const ChoicesBehind choices(graph, flow);
  const auto one_a_token = [&](const jit::Value* value) {
    bool thin = false;
    for (int steps = 0; steps < 16; ++steps) {
      const jit::Node& node = *value->node();
      if (node.inputs().empty()) return false;
      thin = thin || base_name(node) == "unsqueeze";
      switch (op_kind(node)) {
        case OpKind::kScoring:
          if (thin) return true;
          value = node.input(0);
          continue;
        case OpKind::kContract: {
          Projection head;
          if (!match_projection(const_cast<jit::Node*>(&node), flow.origins(), head)) return false;
          const auto weight = graph.constant(head.parameter);
          return weight && weight->isTensor() && weight->toTensor().defined() && weight->toTensor().dim() == 2 &&
                 weight->toTensor().size(0) == 1;
        }
        case OpKind::kCopy:
        case OpKind::kReshape:
        case OpKind::kSlice:
        case OpKind::kSelect:
        case OpKind::kIndex:
          value = node.input(0);
          continue;
        default:
          return false;
      }
    }
    return false;
  };
  for (jit::Node* node : graph.nodes()) {
    if (op_kind(*node) != OpKind::kMultiply || node->inputs().size() < 2) continue;
    for (size_t i = 0; i < 2; ++i) {
      const jit::Value *factor = node->input(i), *output = node->input(1 - i);
      if (!is_tensor(factor) || !is_tensor(output) || !flow.origins().is_activation(output)) continue;
      const Fact* chosen = flow.fact(factor);
      const bool of_expert = chosen != nullptr && chosen->role == Role::kChosen && chosen->numbers_of_experts;
      if (!of_expert && (chosen != nullptr || !one_a_token(factor))) continue;
      if (flow.fact(output) == nullptr && !choices.of(output).empty()) return true;
    }
  }
  return false;
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
