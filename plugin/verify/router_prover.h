#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/method.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/probe.h"
#include "plugin/verify/hook_proof.h"
#include "plugin/verify/twin_router.h"
#include "plugin/verify/twin_run.h"

namespace moetap::plugin {

/// The checks of what one hook reports; see Note [Proof by intervention].
class RouterProver {
 public:
  RouterProver(const hooks::ProbedRouter& router, const torch::jit::Method& method,
               const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base);

  Finding logits() const;
  Finding margin() const;
  Finding ids() const { return router_.form == "slots" ? ids_of_slots() : ids_of_dense_weights(); }
  Finding weights() const;
  Finding factor() const;

 private:
  /// What moving single logits did.
  struct Moves {
    int tried = 0, selected = 0, failed = 0;
    bool reach_scores = false;
    std::string failure = {};        // the first
    std::string contradiction = {};  // of the scores; empty: none
  };

  const analysis::RouterCall& call() const { return twin_.call(); }
  TwinRun run(const Overrides& overrides) const { return run_twin(method_, arguments_, seed_, overrides); }
  /// Throws c10::Error if the model fails.
  TwinRouter run_router(const Overrides& overrides) const;
  bool differs(const TwinRun& run) const { return !almost_equal(*run.output, *base_.output); }

  /// A few tokens, from all over the forward.
  std::vector<int64_t> some_tokens() const;
  /// The experts with finite logits that are not among the token's ids, the smallest logit first.
  std::vector<int64_t> unselected(int64_t token) const;
  /// The logits with one of a token moved far over (1) or under (-1) all others of the token.
  at::Tensor moved(int64_t token, int64_t expert, int direction) const;
  /// Logits are moved so that experts should be selected or removed: up and down, or for `best` -1 the other way round,
  /// where the smallest are selected.
  Moves move_logits(int best) const;
  void move_logit(int64_t token, int64_t expert, int best, bool to_select, Moves& moves) const;

  /// Whether each weight weighs the expert of the id at its slot: all weights but one are zero, and its id is replaced.
  Finding pairs() const;
  std::optional<Finding> pairs_at(int64_t token, int64_t slot, const TwinRun& moved) const;

  std::string why_no_ids() const;
  /// Other ids also in the place of those of picks that hold the same ones, both in the base forward and in `moved`,
  /// where other experts are selected: the experts may get those.
  Overrides with_same_picks(Overrides ids, const TwinRun& moved) const;
  Finding ids_of_slots() const;
  Finding ids_of_dense_weights() const;
  /// A token that has a dense weight of an expert that is not among its ids.
  std::optional<int64_t> weighs_beside_ids(const at::Tensor& dense) const;

  /// All weights doubled, and all zero. The ids stay: a threshold on the weights may make them.
  struct ScaledRuns {
    TwinRun zero, twice;
  };
  const ScaledRuns& scaled() const;
  /// The first value of the stream's width that changes with the weights: what they were applied to. A norm may
  /// follow, or the experts themselves, which take weighted inputs.
  const hooks::WeightedValue* applied() const;
  const hooks::WeightedValue* weighted_value(int64_t probe) const;
  bool is_weights(int64_t probe) const;

  const hooks::ProbedRouter& router_;
  const torch::jit::Method& method_;
  const std::vector<c10::IValue>& arguments_;
  const uint64_t seed_;
  const TwinRun& base_;
  const TwinRouter twin_;
  mutable std::optional<ScaledRuns> scaled_;
  mutable std::optional<Finding> pairs_;
};

/// The ids of one token.
std::vector<int64_t> row_of(const at::Tensor& ids, int64_t token);
bool contains(const std::vector<int64_t>& ids, int64_t id);
/// Two sets of overrides; the first counts where both have a value.
Overrides both(Overrides a, const Overrides& b);

}  // namespace moetap::plugin
