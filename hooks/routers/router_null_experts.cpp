// Ids that stand for no routed expert. See Note [Ids beyond the experts].
#include <algorithm>
#include <set>

#include "hooks/graph/known_numbers.h"
#include "hooks/routers/router_flow.h"

namespace moetap::hooks {
namespace jit = torch::jit;

// Note [Ids beyond the experts]
// A model may write ids that no logit stands for: E for a slot that holds no expert of this process, E and more for
// shared experts and for experts that do nothing. Written over ids that were picked, they are in `selected` as the
// model has them, and the hook says how many there are. Put beside the picked ones, they are no slots: shared experts
// that every token gets. Logits may have columns that no projection gives, for experts that do nothing.

void RouterFlow::note_written_ids(const jit::Value* numbers) {
  if (const auto range = known_numbers(graph_, numbers)) written_ids_.push_back(*range);
}

int64_t RouterFlow::count_null_experts(const Fact& scores) const {
  int64_t count = scores.null_columns;
  if (!scores.num_experts) return count;
  std::set<int64_t> beyond;
  constexpr int64_t kMostShared = 64;  // more are no ids
  for (const NumberRange& range : written_ids_) {
    if (range.largest - range.least > kMostShared) continue;
    for (int64_t id = std::max(range.least, *scores.num_experts); id <= range.largest; ++id) beyond.insert(id);
  }
  return count + static_cast<int64_t>(beyond.size());
}

// True if all parts beside the slots are ids of shared experts.
bool RouterFlow::are_shared(const std::vector<jit::Value*>& parts, const Fact& ids) const {
  std::optional<int64_t> num_experts;
  for (const int pick : ids.picks) num_experts = picks_[static_cast<size_t>(pick)].source.num_experts;
  return num_experts && std::all_of(parts.begin(), parts.end(), [&](const jit::Value* part) {
           if (fact(part) != nullptr) return true;
           const auto range = known_numbers(graph_, part);
           return range && range->least >= *num_experts;
         });
}

// A constant beside a value: a place before the first token, experts that do nothing, or slots of shared experts. What
// else is padded is not followed.
void RouterFlow::follow_pad(jit::Node* node) {
  const Fact* found = fact(node->input(0));
  if (found == nullptr) return;
  Fact result = derived(remembered(*found), node, found->role);
  if ((found->role == Role::kMask || found->role == Role::kStat) && !found->picks.empty()) {
    set(node->output(), result);
    return;
  }
  const auto sizes = graph_.constant_ints(node->input(1));
  if (!sizes || sizes->size() != 2 || !sizes->front() || !sizes->back()) return;  // along the last dimension alone
  const int64_t before = *sizes->front(), behind = *sizes->back();
  if (found->role == Role::kScore && !carries_weights(*found)) {
    if (result.num_experts) *result.num_experts += before + behind;
    result.null_columns += before + behind;
    if (found->score != nullptr && found->score == found->base) result.score = node->output();
    change_scores(result, *found, node->output());
    set(node->output(), result);
  } else if ((found->role == Role::kIds || found->role == Role::kSlot) && found->aligned && before * behind == 0) {
    const std::vector<jit::Value*> number = {node->inputs().back()};
    result.num_slots.reset();
    if (found->role == Role::kSlot || are_shared(number, *found)) {
      result.slots_alone = found->base;
      result.slots_behind = before > 0;
    }
    (found->role == Role::kIds ? result.ids : result.weights) = {node->output()};
    set(node->output(), result);
  }
}

// Columns of logits that come from no projection: parameters and constants beside the scores.
int64_t RouterFlow::null_columns(const std::vector<jit::Value*>& parts) {
  int64_t columns = 0;
  for (const jit::Value* part : parts) {
    if (fact(part) == nullptr && origins_.of(part) <= Origin::kParameter) columns += shapes_.of(part).last.value_or(0);
  }
  return columns;
}

}  // namespace moetap::hooks
