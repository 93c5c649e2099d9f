#include "hooks/routers/crossed_slots.h"

#include <algorithm>

#include "hooks/routers/choices_behind.h"
#include "hooks/routers/joined_outputs.h"
#include "hooks/routers/slot_places.h"

namespace moetap::hooks {
namespace jit = torch::jit;

bool are_of_other_slots(const Fact& weights, const Fact& ids) {
  if (!is_piece(weights) || !is_piece(ids)) return false;
  if (weights.place >= 0 && ids.place >= 0) return weights.place != ids.place;
  if (weights.place_in_run == nullptr || ids.place_in_run == nullptr) return true;
  return !is_same_number(weights.place_in_run, ids.place_in_run);
}

bool crosses_slots(const MethodGraph& graph, const RouterFlow& flow) {
  if (crosses_joined_outputs(graph, flow)) return true;
  const ChoicesBehind choices(graph, flow);
  return std::any_of(flow.events().begin(), flow.events().end(), [&](const Event& event) {
    if (event.kind != EventKind::kAppliesWeights || event.what.role != Role::kSlot || !is_piece(event.what))
      return false;
    bool crossed = false;
    for (const jit::Value* hidden : tensors_read(*event.node)) {
      if (flow.fact(hidden) != nullptr) continue;
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
