#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hooks/graph/known_shapes.h"
#include "hooks/graph/method_graph.h"
#include "hooks/tokens/token_flow.h"

namespace moetap::hooks {

// Note [Places of a score]
// What the dimensions of scores and probabilities are is followed from the product of query and key, a letter for each
// dimension: x and y come from its left and its right operand alone, s from both, 1 has the size 1. The softmax tells
// which of x and y are keys. Then letters of the layout (operator_schemas.h) take their place.

/// The dimensions of a score, one letter each.
using Places = std::string;

/// A product of two operands, where their dimensions go, and which of them are summed over.
struct ScoreProduct {
  torch::jit::Node* node = nullptr;
  torch::jit::Value* left = nullptr;
  torch::jit::Value* right = nullptr;
  Places places;  // of the result: s, x, y
};

/// Dimensions of scores where the graph does not tell: [batch, heads, queries, keys].
inline constexpr int64_t kRankOfScores = 4;

/// What a number of dimensions and their sizes tell of scores.
class AttentionAxes {
 public:
  /// All must outlive it.
  AttentionAxes(const MethodGraph& graph, const TokenFlow& flow) : graph_(graph), flow_(flow), shapes_(graph) {}

  std::optional<int64_t> rank(const torch::jit::Value* value);

  /// The operands of a node that computes a product of two, without places; empty for any other node.
  static std::optional<ScoreProduct> operands(torch::jit::Node* node);

  /// The product that a node computes; empty for a node that computes none, or one whose places cannot be told.
  std::optional<ScoreProduct> product(torch::jit::Node* node);

  /// True if the product takes `value`, whose dimensions are `places`, and sums over the place `summed`.
  bool sums_over(const torch::jit::Node* product, const torch::jit::Value* value, const Places& places, size_t summed);

  /// The places of `to`, which `node` makes of `from`; empty if that is not followed.
  std::optional<Places> through(const torch::jit::Node* node, const torch::jit::Value* from, const Places& places);

  /// The dimension that a value names, from 0; empty if it is no constant or out of range.
  std::optional<size_t> dim(const torch::jit::Value* value, size_t rank) const;
  static std::optional<size_t> dim(int64_t dim, size_t rank);

  struct Layout {
    std::string letters;
    int64_t num_heads = 0;  // where they lie in one dimension with the batch
  };
  /// The layout of scores [places], made by `value` (its dimensions are looked at), with the keys at `keys`. Empty if
  /// it cannot be told.
  std::optional<Layout> layout(const torch::jit::Value* value, const Places& places, size_t keys) const;

  /// The layout of a fused operator's query of that many dimensions, the last being the size of a head.
  std::optional<Layout> fused_layout(const torch::jit::Value* query);

  /// True if the product sums over the tokens of a sequence, not over features: its result relates features.
  bool sums_over_tokens(const ScoreProduct& product) const;

  /// True if the dimension runs along the samples of a batch that nothing else of the value tells apart.
  bool is_batch_alone(const torch::jit::Value* value, const Layout& layout, size_t dim) const;

  const MethodGraph& graph() const { return graph_; }
  const TokenFlow& flow() const { return flow_; }

 private:
  std::optional<ScoreProduct> einsum(torch::jit::Node* node);
  std::optional<Places> moved(const torch::jit::Node* node, const Places& places) const;
  std::optional<Places> reshaped(const torch::jit::Node* node, const Places& places);
  bool runs_along_tokens(const Axis& axis) const;
  const Axis* axis(const torch::jit::Value* value, size_t dim) const;

  const MethodGraph& graph_;
  const TokenFlow& flow_;
  KnownShapes shapes_;
};

}  // namespace moetap::hooks
