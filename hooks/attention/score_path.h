#pragma once

#include <optional>
#include <vector>

#include "hooks/attention/attention_axes.h"
#include "hooks/graph/value_origins.h"

namespace moetap::hooks {

/// How scores come from the product of query and key.
struct ScorePath {
  ScoreProduct product;
  std::vector<torch::jit::Value*> values;  // from the product's result to what the softmax reads, both included
  Places places;                           // of the last
};

/// Follows what a softmax reads back to a product of two activations: through scales, masks, biases, soft-capping,
/// casts, branches, columns of sinks. `origins` and `axes` are of the graph. Empty if there is none.
/// `one_is_parameter`: finds a product of an activation and a parameter instead.
std::optional<ScorePath> find_score_path(torch::jit::Value* scores, const ValueOrigins& origins, AttentionAxes& axes,
                                         bool one_is_parameter = false);

/// True if columns that are no keys (sinks) stand beside the scores of a path.
bool has_sinks(const ScorePath& path);

/// What the softmax reads, without columns of sinks, and before the largest is subtracted; null where masks and scales
/// come behind these.
torch::jit::Value* scores_before_sinks(const ScorePath& path);

}  // namespace moetap::hooks
