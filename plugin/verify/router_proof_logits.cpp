// The checks "logits" and "margin".
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "plugin/verify/router_prover.h"

namespace moetap::plugin {
namespace {

constexpr size_t kMostExperts = 4;  // that are raised for one token until one is selected

/// True where larger logits have larger scores.
bool scores_rise(const analysis::RouterCall& call) {
  const at::Tensor used = call.logits.isfinite() & call.scores.isfinite();
  const at::Tensor x = call.logits.to(at::kDouble).masked_select(used),
                   y = call.scores.to(at::kDouble).masked_select(used);
  return x.numel() == 0 || ((x - x.mean()) * (y - y.mean())).sum().item<double>() >= 0;
}

/// True if the scores of each token have the order of its logits, or the other way round.
bool same_order(const analysis::RouterCall& call) {
  const at::Tensor rising =
      call.scores.to(at::kDouble).gather(1, call.logits.to(at::kDouble).argsort(int64_t{1})).diff(1, 1);
  return rising.ge(0).all().item<bool>() || rising.le(0).all().item<bool>();
}

/// True if the expert, whose logit was moved, has not the best score.
bool contradicts(const at::Tensor& scores, int64_t expert, bool best_is_largest) {
  if (!scores.isfinite().all().item<bool>()) return false;
  const at::Tensor row = scores.to(at::kDouble);
  const double own = row[expert].item<double>(), high = row.max().item<double>(), low = row.min().item<double>();
  const double rounding = 1e-3 * std::max(std::abs(high), std::abs(low));
  return best_is_largest ? own < high - rounding : own > low + rounding;
}

}  // namespace

at::Tensor RouterProver::moved(int64_t token, int64_t expert, int direction) const {
  at::Tensor logits = call().logits.to(at::kDouble).clone();
  const at::Tensor row = logits[token], finite = row.masked_select(row.isfinite());
  const double low = finite.min().item<double>(), high = finite.max().item<double>();
  const double far = std::max(10.0, 10 * (high - low));
  logits[token][expert] = direction > 0 ? high + far : low - far;
  return logits;
}

void RouterProver::move_logit(int64_t token, int64_t expert, int best, bool to_select, Moves& moves) const {
  const int direction = to_select ? best : -best;
  const TwinRouter changed = run_router(twin_.with_logits(moved(token, expert, direction)));
  ++moves.tried;
  const at::Tensor &scores = changed.call().scores, &before = call().scores;
  moves.reach_scores = moves.reach_scores || (scores.defined() && before.defined() && !same_bits(scores, before));
  const bool is_in = contains(row_of(changed.call().selected, token), expert);
  if (is_in == to_select) {
    moves.selected += to_select ? 1 : 0;
    return;
  }
  ++moves.failed;
  const std::string move =
      fmt::format("{} the logit of expert {} for token {}", direction > 0 ? "raising" : "lowering", expert, token);
  if (moves.failure.empty()) moves.failure = fmt::format("{} does not {} it", move, to_select ? "select" : "remove");
  // A score of 0 that stays 0: the expert is closed, and nothing tells whether before or behind the scores.
  const bool is_closed = scores.defined() && before.defined() && scores[token][expert].item<double>() == 0 &&
                         before[token][expert].item<double>() == 0;
  if (moves.contradiction.empty() && scores.defined() && before.defined() && !is_closed &&
      contradicts(scores[token], expert, (direction > 0) == scores_rise(call()))) {
    moves.contradiction = move + " does not move its score over or under all others";
  }
}

RouterProver::Moves RouterProver::move_logits(int best) const {
  Moves moves;
  for (const int64_t token : some_tokens()) {
    auto others = unselected(token);
    if (others.empty()) continue;
    others.resize(std::min(others.size(), kMostExperts));
    for (const int64_t expert : others) {
      const int before = moves.selected;
      move_logit(token, expert, best, /*to_select=*/true, moves);
      if (moves.selected > before) break;
    }
    const auto ids = row_of(call().selected, token);
    const auto selected = std::find_if(ids.begin(), ids.end(), [](int64_t id) { return id >= 0; });
    if (selected != ids.end()) move_logit(token, *selected, best, /*to_select=*/false, moves);
  }
  return moves;
}

Finding RouterProver::logits() const {
  if (!call().logits.defined()) return not_shown("none are captured");
  if (router_.ids_of_arguments) return not_shown("the ids are those of an argument: nothing is selected by logits");
  const Moves moves = move_logits(/*best=*/1);
  if (moves.tried == 0) return not_shown("every expert is selected");
  if (moves.failed == 0) return proven();
  if (call().scores.defined() && !moves.reach_scores && same_order(call())) {
    return not_shown("the scores have their order, but are computed from another tensor");
  }
  // Scores that do not follow the logits: something comes between them. Masks and biases behind the scores are right.
  if (!moves.contradiction.empty()) return refuted(moves.contradiction);
  if (moves.selected > 0) return not_shown(moves.failure + ": something else takes part in the selection");
  if (const Moves smallest = move_logits(/*best=*/-1); smallest.failed == 0) return proven();
  return refuted(moves.failure + ", nor any other that was tried");
}

Finding RouterProver::margin() const {
  if (!call().logits.defined()) return not_shown("none are captured");
  if (router_.form == "variable") return not_shown("how many experts a token gets depends on their scores");
  if (router_.form == "expert_choice") return not_shown("experts choose tokens");
  int tries = 0;
  for (const int64_t token : some_tokens()) {
    const at::Tensor row = call().logits[token].to(at::kDouble), finite = row.isfinite();
    auto ids = row_of(call().selected, token);
    std::erase_if(ids, [](int64_t id) { return id < 0; });
    // Those that are not selected first: the lead must decide, and nothing else.
    std::vector<int64_t> leading = unselected(token);
    if (leading.empty() || ids.empty()) continue;
    leading.insert(leading.end(), ids.begin(), ids.end());
    leading.resize(ids.size());
    const at::Tensor values = row.masked_select(finite);
    const double spread = (values.max() - values.min()).item<double>();
    const double lead = (spread > 0 ? spread : 1) * (call().logits.element_size() < 4 ? 0.05 : 1e-3);
    ++tries;
    std::sort(leading.begin(), leading.end());
    const auto decides = [&](double by) {
      at::Tensor logits = call().logits.to(at::kDouble).clone();
      const at::Tensor experts = at::tensor(leading, logits.options().dtype(at::kLong));
      logits[token].masked_fill_(finite, 0).index_fill_(0, experts, by);
      auto now = row_of(run_router(twin_.with_logits(logits)).call().selected, token);
      std::sort(now.begin(), now.end());
      return now == leading;
    };
    if (!decides(lead) && !decides(-lead)) {  // the smallest may be selected
      return not_shown(
          fmt::format("for token {} the experts whose logits lead a little are not the selected "
                      "ones: a bias, a limit or something that is added takes part",
                      token));
    }
  }
  return tries > 0 ? proven() : not_shown("every expert is selected");
}

}  // namespace moetap::plugin
