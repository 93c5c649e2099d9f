#pragma once

#include <optional>
#include <vector>

#include "hooks/attention/attention_axes.h"
#include "hooks/graph/value_origins.h"

namespace moetap::hooks {

/// How a model uses the probabilities that a softmax gives.
struct AppliedProbabilities {
  torch::jit::Node* applied = nullptr;            // the product with the values
  torch::jit::Value* probabilities = nullptr;     // as they are used, but for dropout and casts
  Places places;                                  // of these
  size_t keys = 0;                                // their place of the keys
  bool sliced = false;                            // columns were cut off
  std::vector<torch::jit::Node*> behind_dropout;  // what is done to them behind a dropout, in order
};

/// Follows probabilities [places], keys at `keys`, to the product with an activation that sums over the keys: through
/// dropout, casts, masks, columns that are cut off, branches. Empty if there is none.
std::optional<AppliedProbabilities> find_applied(torch::jit::Value* probabilities, const Places& places, size_t keys,
                                                 const ValueOrigins& origins, AttentionAxes& axes);

}  // namespace moetap::hooks
