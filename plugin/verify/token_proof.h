#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hooks/probe.h"
#include "plugin/capture/attention_tokens.h"
#include "plugin/capture/forward_tokens.h"
#include "plugin/capture/host_copies.h"
#include "plugin/verify/changed_arguments.h"
#include "plugin/verify/hook_proof.h"
#include "plugin/verify/twin_attention.h"
#include "plugin/verify/twin_router.h"
#include "plugin/verify/twin_run.h"

namespace moetap::plugin {

// Note [Proof of the token layout]
// Which sample and position a router's rows belong to, and which of them are padding, is read as in a run
// (ForwardTokens). Then the arguments of some tokens are changed, and the router's logits, or the probabilities of an
// attention, say which rows these were:
//
// samples    The arguments of one sample are changed: only rows of that sample may change.
// positions  The same for one position of all samples.
// padding    The arguments at the places of padding are changed: no other row may change.
//
// A row that changes with another sample and not with its own belongs to the other one: that refutes. A row that
// changes with both refutes nothing: samples share the capacity of experts or the statistics of a norm, positions are
// mixed by attention. Padding that reaches other rows refutes only if it would not where the mask calls it a token:
// then the mask is read the wrong way round. Else the model does not heed its mask.

/// The checks of the tokens of one forward. One for all hooks: they share its runs.
class TokenProver {
 public:
  /// All must outlive it. `base`: the forward of `method`, of the probed twin, over the arguments.
  TokenProver(const ModelDescription& model, const std::string& method_name, const torch::jit::Method& method,
              const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base);

  /// The checks "samples", "positions" and "padding" of a hook that ran. To be called for hooks in order of execution,
  /// as the capture sees them.
  std::vector<Check> prove(const hooks::ProbedRouter& router);
  /// "samples" and "padding" of an attention: its rows are those of its probabilities. Positions are not told so, since
  /// each row changes with the tokens that it sees.
  std::vector<Check> prove(const hooks::ProbedAttention& attention);

 private:
  enum class Change { kSample, kSampleAsNeighbour, kPosition, kPadding, kPaddingAsTokens, kNoPadding };
  struct ChangeKey {
    Change change;
    int64_t label = 0, count = 0;  // which of how many samples or positions
    TextOfComponent text = TextOfComponent::kNone;

    auto operator<=>(const ChangeKey&) const = default;
  };
  struct Rows;

  /// Throws c10::Error where the capture would refuse the report.
  Rows rows_of(const hooks::ProbedRouter& router);
  Rows rows_of(const hooks::ProbedAttention& attention);
  Finding labelled(const Rows& rows, const at::Tensor& labels, int64_t count, Change change);
  Finding samples(const Rows& rows);
  Finding positions(const Rows& rows);
  Finding padding(const Rows& rows);
  /// The forward over changed arguments; without an output if they cannot be changed so, or the model fails.
  const TwinRun& run(const ChangeKey& key);
  std::optional<ChangedArguments::Values> changed(const ChangeKey& key, ChangedArguments::Exchange exchange) const;
  std::optional<TextTokens> text_of(TextOfComponent text) const;

  const torch::jit::Method& method_;
  const uint64_t seed_;
  const TwinRun& base_;
  ChangedArguments arguments_;
  HostCopies copies_;
  ForwardTokens tokens_;
  std::map<ChangeKey, TwinRun> runs_;
};

}  // namespace moetap::plugin
