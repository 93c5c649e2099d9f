#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <optional>

#include "hooks/points/hook_point.h"

namespace moetap::hooks {

/// Why something that looks like a hook point has no hook. docs/routers.md and
/// docs/attention.md tell users what each means and what to do.
enum class SkipReason {
  kWeighsEverything,      // dense mixtures: there is no pick
  kPicksTokens,           // expert choice in a layout that cannot be reported
  kIndexesTokens,         // the ids choose rows of the router's own input
  kSamples,               // what was picked is only sampled from
  kLooksUpValues,         // the picked parameters are summed, and multiply no hidden state
  kSelectsNoExpert,       // the ids reach nothing that looks like an expert
  kFindsThreshold,        // the scores, with a number that was found by sorting or searching them
  kPicksFromPicked,       // product keys
  kPicksInGroups,         // each group of scores has picks of its own
  kRewritesIds,           // ids or weights are not what they were when a pick gave them, in a way that is not followed
  kChangesSortedWeights,  // the weights that are applied stand in another order than the ids
  kTakesFirstTokens,      // an expert sees only the first of the tokens that chose it
  kWeighsPairs,           // (token, expert) above a threshold, in a list
  kWeighsInSeveralWays,   // one selection serves several layers of experts, whose weights differ
  kWeighsUnpicked,        // something is added to the weights of all experts, of those that were not picked, too
  kWeighedByOthers,       // without weights of its own: what its experts give is multiplied by other numbers
  kUnsureFactor,          // its weights meet two activations, of which either may be a factor
  kSharesProjection,      // several routers read parts of one projection
  kUnknownNumExperts,     // hash routing whose number of experts is no constant
  kHasNoProjection,       // a top-k whose scores no parameter gave
  kAttendsToParameters,   // attention whose queries or keys are parameters: a memory, learned queries
  kAttendsToLayers,       // attention whose keys are the outputs of several layers
  kAttendsToSamples,      // attention of the samples of a batch to each other
  kSumsOverOthers,        // a softmax of a product whose result does not sum hidden states over the same dimension
  kUnknownScores,         // attention whose scores cannot be laid out as [batch, heads, queries, keys]
  kSkippedByHookSpec,     // the user said so
  kSharesClass,           // a method whose code other modules run too; the last, see kNumSkipReasons
};

inline constexpr int kNumSkipReasons = static_cast<int>(SkipReason::kSharesClass) + 1;

/// The text that users see. That of `kSharesClass` follows the path of another module of the class.
const char* to_string(SkipReason reason);

/// The kind of hook that it is the reason of; of several kinds, the first.
HookKind kind_of(SkipReason reason);

/// Something in a graph that looked like a hook point and has no hook.
struct SkippedNode {
  const torch::jit::Node* node = nullptr;    // the pick, say
  const torch::jit::Node* source = nullptr;  // the projection whose scores it picks from; else the node itself
  SkipReason reason = SkipReason::kSelectsNoExpert;
  std::optional<HookKind> of_kind = {};  // where the reason is one of several kinds

  HookKind kind() const { return of_kind.value_or(kind_of(reason)); }
};

}  // namespace moetap::hooks
