#include "hooks/routers/router_fact.h"

#include <algorithm>

namespace moetap::hooks {
namespace jit = torch::jit;

void merge(Fact& into, const Fact& from) {
  into.picks.insert(from.picks.begin(), from.picks.end());
  for (jit::Value* id : from.ids) {
    if (std::find(into.ids.begin(), into.ids.end(), id) == into.ids.end()) into.ids.push_back(id);
  }
  for (jit::Value* weight : from.weights) {
    if (std::find(into.weights.begin(), into.weights.end(), weight) == into.weights.end())
      into.weights.push_back(weight);
  }
  into.nested = into.nested || from.nested;
  into.joined = into.joined || from.joined;
  into.rewritten = into.rewritten || from.rewritten;
  into.strays = into.strays || from.strays;
  into.turned = into.turned || from.turned;
}

void join_places(Fact& into, const Fact& from) {
  if (into.place == from.place && into.place_in_run == from.place_in_run) return;
  into.place = -1;
  into.place_in_run = nullptr;
}

bool carries_weights(const Fact& fact) {
  if (fact.threshold && (fact.role == Role::kScore || fact.role == Role::kMask)) return true;
  return fact.role == Role::kSlot || fact.role == Role::kRouted || (fact.role == Role::kScore && !fact.picks.empty());
}

void lose_alignment(Fact& fact) {
  if (fact.aligned && fact.base != nullptr) {
    if (fact.role == Role::kIds) fact.ids = {fact.base};
    if (carries_weights(fact)) fact.weights = {fact.base};
  }
  fact.aligned = fact.index = false;
  fact.base = nullptr;
}

// Note [Weights in another order]
// Flat weights that a sort by expert has put into another order can be put back, whatever is done to each of them: by
// the order itself. That holds as long as all of them are there; what is computed with some of them is lost.
void change_in_order(Fact& fact, jit::Value* now) {
  fact.changed = true;
  if (fact.in_pieces) fact.permuted = fact.order = nullptr;
  if (fact.order != nullptr) fact.permuted = now;
}

Fact remembered(Fact fact) {
  if (fact.aligned && fact.base != nullptr) {
    if (fact.role == Role::kIds) fact.ids = {fact.base};
    if (carries_weights(fact)) fact.weights = {fact.base};
  }
  return fact;
}

Fact weights_of_vectors(Fact chosen) {
  chosen.role = Role::kSlot;
  chosen.aligned = true;
  chosen.score = nullptr;
  chosen.scoring = chosen.slot_scoring = "other";
  return chosen;
}

Fact spread_over_places(const Fact& weights, const Fact& mask, jit::Value* value) {
  Fact result = remembered(weights);
  merge(result, remembered(mask));
  result.role = Role::kRouted;
  result.dropped = weights.dropped || mask.dropped;
  result.permuted = result.order = nullptr;
  result.expert_dim = -2;  // the places in their queues lie behind the experts
  result.rank.reset();
  result.base = value;
  result.aligned = true;
  result.ids = mask.ids;
  result.parent = nullptr;
  return result;
}

}  // namespace moetap::hooks
