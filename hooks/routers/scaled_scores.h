#pragma once

#include "hooks/graph/method_graph.h"
#include "hooks/routers/found_router.h"

namespace moetap::hooks {

/// True if the graph shows that the router's scores are what a scoring function gave in its usual form (over the
/// experts, with a beta of 1), and nothing was done to them since.
bool scores_are_plain(const MethodGraph& graph, const FoundRouter& router);

struct ScaledWeights {
  bool are_scaled_scores = false;
  bool have_factors_of_experts = false;  // or of slots: not only those that a token's slots share
};

/// Whether the graph shows that the router's weights are its scores at the selected ids times factors: of a token, of a
/// slot, of an expert, or masks of ones and zeros. The softmax of the selected scores or logits themselves counts as
/// scores, too. They are not where an operation between the two is another one (a power, a threshold, a temperature) or
/// is not known: the weights may be right then, but no relation to the scores tells. Where a hook spec claims it, it is
/// taken at its word, and the run tells.
ScaledWeights scaled_weights(const MethodGraph& graph, const FoundRouter& router);

}  // namespace moetap::hooks
