// Transfer functions of RouterFlow for values that are put together: `cat`, `stack`. See Note [Following a projection].
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

void RouterFlow::follow_concatenate(jit::Node* node) {
  const auto parts = list_elements(node->input(0));
  const Fact* first = nullptr;
  size_t followed = 0;
  int first_at = -1;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fact* found = fact(parts[i]);
    if (found == nullptr) continue;
    if (first == nullptr) first = found, first_at = static_cast<int>(i);
    if (found->role == first->role) ++followed;
  }
  if (first == nullptr) return;
  Fact result = derived(remembered(*first), node, first->role);
  result.permuted = result.order = nullptr;
  // One tensor for each slot, put before the tokens.
  const bool of_slots = first->role == Role::kIds || first->role == Role::kSlot;
  if (of_slots && base_name(*node) == "stack" && graph_.constant_int(node->input(1)) == 0) {
    result.expert_dim = -shapes_.of(parts[0]).rank.value_or(1) - 1;
  }
  bool all_slots = first->role == Role::kSlot || first->role == Role::kIds;
  bool in_order = all_slots;  // pieces that are put together again
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fact* found = fact(parts[i]);
    in_order = in_order && found != nullptr && found->role == first->role && found->place == static_cast<int>(i);
    if (found != nullptr && found->role == first->role) {
      merge(result, remembered(*found));
      if (first->role == Role::kIds && found != first) join_numbers(result, *found);
      result.nested = result.nested || found->nested;
      // One slot each, as `ids[:, 0]` and `ids[:, 1]`, makes the slots again.
      if (!found->aligned) all_slots = false;
    }
  }
  if (followed < parts.size() && all_slots && (first_at == 0 || first_at + followed == parts.size())) {
    const bool shared = first->role == Role::kSlot || are_shared(parts, *first);
    if (shared && followed == 1) result.slots_alone = first->base, result.slots_behind = first_at > 0;
  }
  // Slots beside scores of experts that are not selected (shared ones), which come from the same projection.
  if (followed < parts.size() && first->role == Role::kSlot) result.mixed_at = first_at;
  if (followed < parts.size() && first->role == Role::kScore) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const Fact* found = fact(parts[i]);
      if (found != nullptr && found->role == Role::kSlot) {
        result = derived(remembered(*found), node, Role::kSlot);
        result.mixed_at = static_cast<int>(i);
        all_slots = true;
      }
    }
  }
  if (first->role == Role::kScore && first->picks.empty() && result.role == Role::kScore) {
    const auto dim = node->inputs().size() > 1 ? graph_.constant_int(node->input(1)) : std::optional<int64_t>(0);
    if (const auto last = shapes_.of(node->output()).last) {
      result.num_experts = last;
    } else if (dim != 0) {
      result.num_experts.reset();
    }
    if (dim != 0) result.null_columns += null_columns(parts);
    if (first->score != nullptr && first->score == first->base) result.score = node->output();
    change_scores(result, *first, node->output());
  }
  if (first->role == Role::kIds || result.role == Role::kSlot) {
    result.num_slots = std::nullopt;
    result.unsure_slots = result.unsure_slots || grows_in_loop(node->input(0));
    const bool another_order =
        of_slots && !all_slots && !in_order && followed == parts.size() && joins_slots_in_order(node, parts, result);
    if (!all_slots && !in_order && !another_order)
      lose_alignment(result);
    else {
      result.aligned = true;
      result.place = -1;
      if (in_order) result.changed = false;
      if (result.role == Role::kIds)
        result.ids = {node->output()};
      else
        result.weights = {node->output()};
    }
  }
  set(node->output(), result);
}

}  // namespace moetap::hooks
