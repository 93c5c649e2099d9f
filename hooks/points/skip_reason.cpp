#include "hooks/points/skip_reason.h"

#include <c10/util/Exception.h>

namespace moetap::hooks {

const char* to_string(SkipReason reason) {
  switch (reason) {
    case SkipReason::kWeighsEverything:
      return "weighs everything and selects nothing (dense mixture)";
    case SkipReason::kPicksTokens:
      return "picks tokens for each expert (expert choice), not experts for each token";
    case SkipReason::kIndexesTokens:
      return "indexes tokens, not experts";
    case SkipReason::kSamples:
      return "samples from what it picked, applies no expert";
    case SkipReason::kLooksUpValues:
      return "sums what it picked, applies no single expert";
    case SkipReason::kSelectsNoExpert:
      return "what it picks is not seen to select an expert";
    case SkipReason::kFindsThreshold:
      return "its scores meet what was computed from picks of them in a way that is not followed (sparsemax, entmax)";
    case SkipReason::kPicksFromPicked:
      return "picks from what was picked (product keys)";
    case SkipReason::kPicksInGroups:
      return "picks inside groups of scores";
    case SkipReason::kRewritesIds:
      return "its ids or weights are changed behind the pick in a way that is not followed";
    case SkipReason::kChangesSortedWeights:
      return "its weights are computed with after they were put into another order";
    case SkipReason::kTakesFirstTokens:
      return "each expert takes the first of its tokens only, and no tensor [tokens, experts] tells which were left "
             "out";
    case SkipReason::kWeighsPairs:
      return "weighs pairs of tokens and experts, and no tensor over the experts holds their weights";
    case SkipReason::kWeighsInSeveralWays:
      return "what it picks serves several layers of experts, each with weights of its own";
    case SkipReason::kWeighsUnpicked:
      return "it gives weights to experts that it did not pick, too";
    case SkipReason::kWeighedByOthers:
      return "what its experts give is multiplied by numbers that are not made of its scores";
    case SkipReason::kUnsureFactor:
      return "its weights are multiplied by what may be a factor or a hidden state: the graph does not tell how wide "
             "it is";
    case SkipReason::kSharesProjection:
      return "several routers share one projection";
    case SkipReason::kUnknownNumExperts:
      return "ids of the arguments choose experts, and the graph does not tell how many there are";
    case SkipReason::kHasNoProjection:
      return "its scores come from no projection by a parameter that is followed";
    case SkipReason::kAttendsToParameters:
      return "attention whose queries or keys are parameters, not tokens";
    case SkipReason::kAttendsToLayers:
      return "attention over the outputs of several layers, not over tokens";
    case SkipReason::kAttendsToSamples:
      return "attention of the samples of a batch to each other, not of tokens";
    case SkipReason::kSumsOverOthers:
      return "the softmax of a product that does not weigh one token by another, as that of attention does";
    case SkipReason::kUnknownScores:
      return "attention whose scores the graph does not show as [batch, heads, queries, keys]";
    case SkipReason::kSkippedByHookSpec:
      return "skipped by the hook spec";
    case SkipReason::kSharesClass:
      return "has the same class";
  }
  TORCH_INTERNAL_ASSERT(false, "unknown reason ", static_cast<int>(reason));
}

HookKind kind_of(SkipReason reason) {
  switch (reason) {
    case SkipReason::kAttendsToParameters:
    case SkipReason::kAttendsToLayers:
    case SkipReason::kAttendsToSamples:
    case SkipReason::kSumsOverOthers:
    case SkipReason::kUnknownScores:
      return HookKind::kAttention;
    default:
      return HookKind::kRouter;
  }
}

}  // namespace moetap::hooks
