// Whether ids and weights belong together: a part of the checks "ids" and "weights".
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "plugin/verify/router_prover.h"

namespace moetap::plugin {

// Only the weight of one slot of one token is left. Other experts in the place of that slot's must change the output;
// if they do not, and others in the places of all other slots do, the weight weighs another slot's expert.
std::optional<Finding> RouterProver::pairs_at(int64_t token, int64_t slot, const TwinRun& moved) const {
  const at::Tensor &ids = call().selected, &weights = call().weights;
  const auto others = unselected(token);
  if (others.empty() || ids[token][slot].item<int64_t>() < 0) return std::nullopt;
  at::Tensor only = at::zeros_like(weights);
  only[token][slot] = weights[token][slot];
  const Overrides alone = twin_.with_weights(only);
  const auto with_ids = [&](const at::Tensor& other) {
    return run(both(with_same_picks(twin_.with_selected(other), moved), alone));
  };
  at::Tensor own = ids.clone();
  own[token][slot] = others.back();
  at::Tensor beside = at::where(ids.ge(0), (ids + 1).remainder(call().num_experts), ids);
  beside[token][slot] = ids[token][slot];
  const TwinRun as_it_was = with_ids(ids), changed = with_ids(own), changed_beside = with_ids(beside);
  for (const TwinRun* each : {&as_it_was, &changed, &changed_beside}) {
    if (!each->ran()) return std::nullopt;
  }
  if (!almost_equal(*changed.output, *as_it_was.output)) return proven();
  if (almost_equal(*changed_beside.output, *as_it_was.output)) return std::nullopt;  // its weight is next to nothing
  return refuted(fmt::format(
      "the weight in slot {} of token {} does not weigh the expert whose id stands there, but another slot's", slot,
      token));
}

Finding RouterProver::pairs() const {
  if (pairs_) return *pairs_;
  const TwinRun moved = run(twin_.with_logits(call().logits.flip(1)));
  bool shown = false;
  pairs_ = not_shown("no single weight shows whose expert it weighs");
  for (const int64_t token : some_tokens()) {
    for (const int64_t slot : {int64_t{0}, call().selected.size(1) - 1}) {
      const auto found = pairs_at(token, slot, moved);
      if (!found) continue;
      shown = true;
      if (found->verdict == Verdict::kRefuted) return *(pairs_ = found);
      if (slot == call().selected.size(1) - 1) break;
    }
    if (shown) return *(pairs_ = proven());
  }
  return *pairs_;
}

}  // namespace moetap::plugin
