#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_columns.h"

namespace moetap::analysis {

// Note [How a router call is checked]
// Discovery reads from the graph which tensor is what. The numbers must then obey relations that hold in every router
// of that kind; a tensor from the wrong place breaks one of them:
//
//  - scores that a scoring function with a known name gave are scoring(logits), up to one factor a token;
//  - what the pick reads is the logits where the selected are scored, but for one constant an expert, or if the weights
//    prove the logits and it rises with them, or has the form of Sinkhorn's; where it reads scores that are not
//    reported, it is the scores of the logits, but for masks;
//  - the selected ids are the best of what the pick reads, and as many as the graph says;
//  - where the graph shows only factors between them, the weights are the scores of the selected, up to one factor a
//    token (a renormalisation, a scale) and one an expert or a slot. Slots of weight 0 (dropped) are left out, but not
//    every token's best slot is one;
//  - dense weights are 0 but at the selected ids.
//
// A relation that the graph does not show to hold, or whose members are not all there, is not examined. Values are
// compared within the rounding of their dtypes. A relation names no culprit by itself: `judge` takes the other
// relations as witnesses.

/// A call with what only its check needs. All tensors on one device.
struct CheckedRouter {
  RouterCall call;
  at::Tensor choice;             // [num_tokens, num_experts]: what the pick reads; undefined: not known
  at::Tensor dense_weights;      // [num_tokens, num_experts]: the weights are these at the ids; undefined: they are not
  std::string_view scoring;      // HookPoint::scoring
  std::optional<int64_t> top_k;  // ids a token as the graph has them; empty: not known
  // The ids are slots as the model has them: none was made of dense weights or of the tokens of experts.
  bool has_slots = false;
  // See HookPoint.
  bool scores_are_plain = false, weights_are_scaled_scores = false, weights_have_factors_of_experts = false;
};

/// Relations, and what is only looked at as a witness.
enum RouterRelation : int64_t {
  kScoresAreOfLogits,
  kChoiceIsOfLogits,
  kIdsAreBest,
  kIdsAreAll,
  kWeightsAreOfScores,
  kWeightsAreAtIds,
  kWitnessWeightsOfScores,  // weights and the reported scores alone
  kWitnessWeightsOfLogits,  // weights and the scores of the reported logits
  kWitnessChoiceIsScores,
  kWitnessChoiceIsLogits,
  kWitnessChoiceIsOpenLogits,     // but for experts that a mask has closed
  kWitnessChoiceIsBiasedLogits,   // logits and one constant an expert
  kWitnessChoiceRisesWithLogits,  // each token's in the order of its logits, or their exponentials with factors
  kWitnessIdsAreBestOfScores,     // where it is not known what the pick reads
};
inline constexpr int64_t kNumRouterRelations = kWitnessIdsAreBestOfScores + 1;

/// Tokens of a call for which each relation does not hold, int64 [kNumRouterRelations] on the call's device; -1: not
/// examined. LibTorch operations on the current stream: does not wait for a device. Looks at kMaxCheckedTokens tokens
/// at most, spread over the call.
at::Tensor count_misfits(const CheckedRouter& router);
inline constexpr int64_t kMaxCheckedTokens = 2048;

/// What does not fit: each wrong column with the reason, one line. Empty: all that was examined fits.
using RouterVerdict = std::map<RouterColumn, std::string>;

/// `misfits`: what `count_misfits` gave, on the host.
RouterVerdict judge(const at::Tensor& misfits);

/// bool [] on the device of `misfits`: `judge` will find the weights right.
at::Tensor weights_fit(const at::Tensor& misfits);

}  // namespace moetap::analysis
