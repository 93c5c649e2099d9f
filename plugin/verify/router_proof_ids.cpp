// The check "ids".
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "plugin/verify/router_prover.h"

namespace moetap::plugin {

std::string RouterProver::why_no_ids() const {
  if (!call().logits.defined()) return "no logits are captured that could select the same experts";
  if (!call().weights.defined()) return "no weights are captured that could be kept";
  return "";
}

Overrides RouterProver::with_same_picks(Overrides ids, const TwinRun& moved) const {
  const auto same_in = [](const TwinRun& run, int64_t a, int64_t b) {
    const at::Tensor x = run.first(a), y = run.first(b);
    return x.defined() && y.defined() && x.numel() == y.numel() && !y.is_floating_point() &&
           x.reshape({-1}).to(at::kLong).equal(y.reshape({-1}).to(at::kLong));
  };
  Overrides all = ids;
  for (const auto& [source, tensor] : ids) {
    for (const int64_t pick : router_.picks) {
      if (!same_in(base_, source, pick) || !same_in(moved, source, pick)) continue;
      const at::Tensor of_pick = base_.first(pick);
      all.try_emplace(pick, tensor.reshape(of_pick.sizes()).to(of_pick.scalar_type()));
    }
  }
  return all;
}

Finding RouterProver::ids_of_slots() const {
  if (const std::string why = why_no_ids(); !why.empty()) return not_shown(why);
  std::string last = "every expert is selected";
  for (const int64_t token : some_tokens()) {
    const auto others = unselected(token);
    std::vector<int64_t> wanted = row_of(call().selected, token);
    if (others.empty() || contains(wanted, -1)) continue;
    wanted.back() = others.front();
    // The model selects the wanted ids itself once the token's largest logits are theirs.
    at::Tensor logits = call().logits.clone();
    std::vector<int64_t> experts = wanted;
    for (int64_t e = 0; e < call().num_experts; ++e) {
      if (!contains(wanted, e)) experts.push_back(e);
    }
    const at::Tensor falling = std::get<0>(logits[token].sort(-1, /*descending=*/true));
    logits[token].scatter_(0, at::tensor(experts, falling.options().dtype(at::kLong)), falling);
    const at::Tensor selected = run_router(both(twin_.with_logits(logits), twin_.with_weights_kept())).call().selected;
    at::Tensor expected = call().selected.clone();
    expected[token].copy_(at::tensor(wanted, at::kLong));
    if (!std::get<0>(selected.sort(-1)).equal(std::get<0>(expected.sort(-1)))) {
      last = "permuted logits do not permute the ids: something else takes part in the selection";
      continue;
    }
    // The same weight for the same expert, whatever the order of its slots.
    at::Tensor weights = call().weights.clone();
    const auto order = row_of(selected, token);
    for (size_t slot = 0; slot < order.size(); ++slot) {
      const auto from = std::find(wanted.begin(), wanted.end(), order[slot]) - wanted.begin();
      weights[token][static_cast<int64_t>(slot)] = call().weights[token][from];
    }
    const TwinRun by_logits = run(both(twin_.with_logits(logits), twin_.with_weights(weights)));
    const TwinRun by_ids =
        run(both(with_same_picks(twin_.with_selected(expected), by_logits), twin_.with_weights_kept()));
    for (const TwinRun* each : {&by_logits, &by_ids}) {
      if (!each->ran()) return not_shown(fmt::format("the model failed: {}", each->error));
    }
    if (!differs(by_logits) && !differs(by_ids)) {
      last = "other experts give the same output";
      continue;
    }
    if (almost_equal(*by_logits.output, *by_ids.output)) return pairs();
    if (!differs(by_ids)) {
      return refuted(
          fmt::format("the experts do not get these ids: nothing changes with expert {} in the place "
                      "of expert {} for token {}",
                      others.front(), row_of(call().selected, token).back(), token));
    }
    last = "other ids do something else than logits that select them: both may reach more than the choice";
  }
  return not_shown(last);
}

std::optional<int64_t> RouterProver::weighs_beside_ids(const at::Tensor& dense) const {
  const at::Tensor& ids = call().selected;
  at::Tensor beside = at::cat({dense, dense.new_zeros({dense.size(0), 1})}, 1);
  beside.scatter_(1, at::where(ids.lt(0), call().num_experts, ids), 0);
  const at::Tensor tokens = beside.ne(0).any(1).nonzero();
  return tokens.numel() == 0 ? std::nullopt : std::optional(tokens[0][0].item<int64_t>());
}

Finding RouterProver::ids_of_dense_weights() const {
  if (const std::string why = why_no_ids(); !why.empty()) return not_shown(why);
  const auto dense = twin_.dense_weights();
  if (!dense) return not_shown(fmt::format("they have the form {}", router_.form));
  if (const auto token = weighs_beside_ids(*dense)) {
    return refuted(fmt::format("token {} has weights of experts that are not among its ids", *token));
  }
  std::string last = "every expert is selected";
  for (const int64_t token : some_tokens()) {
    const auto others = unselected(token);
    const auto ids = row_of(call().selected, token);
    if (others.empty() || ids.empty() || ids.front() < 0) continue;
    const at::Tensor pair = at::tensor({ids.front(), others.front()}, at::kLong).to(dense->device());
    const auto exchanged = [&](const at::Tensor& values) {
      at::Tensor result = values.clone();
      result[token].index_copy_(0, pair, values[token].index_select(0, pair.flip(0)));
      return result;
    };
    const TwinRun by_logits = run(twin_.with_logits(exchanged(call().logits)));
    // What is made of the ids may say which tokens an expert gets.
    Overrides weights = twin_.with_dense_weights(exchanged(*dense));
    if (const auto all_ids = twin_.slots()) {
      at::Tensor other_ids = all_ids->clone();
      other_ids[token] = at::where(other_ids[token].eq(ids.front()), others.front(), other_ids[token]);
      weights = both(weights, with_same_picks(twin_.with_slots(other_ids), by_logits));
    }
    const TwinRun by_weights = run(weights);
    for (const TwinRun* each : {&by_logits, &by_weights}) {
      if (!each->ran()) return not_shown(fmt::format("the model failed: {}", each->error));
    }
    const auto seen = TwinRouter(router_, by_logits).dense_weights();
    if (!seen || !almost_equal(*seen, exchanged(*dense))) {
      last = "exchanged logits do not exchange the weights: something else takes part";
    } else if (!differs(by_logits) && !differs(by_weights)) {
      last = "other experts give the same output";
    } else if (almost_equal(*by_logits.output, *by_weights.output)) {
      return proven();
    } else {
      last = "exchanged weights do something else than exchanged logits: more than the weights chooses experts";
    }
  }
  return not_shown(last);
}

}  // namespace moetap::plugin
