#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"
#include "hooks/points/token_layout.h"
#include "hooks/tokens/token_flow.h"

namespace moetap::hooks {

/// A dimension of a tensor that is none of its tokens' (negative: from the end): experts, slots, heads, features.
struct LeftOutDim {
  int64_t dim = 0;
  int64_t size = 0;  // not 0: only a constant of this size, which varies fastest there: heads beside the batch
};

/// What the rows of the tensors of a method graph are.
class TokenLayouts {
 public:
  TokenLayouts(const MethodGraph& graph, const ValueOrigins& origins);

  /// The layout of a tensor's dimensions but `without` (negative: from the end), which holds experts or slots; empty:
  /// all are the tokens'.
  TokenLayout of(const torch::jit::Value* tensor, std::optional<int64_t> without) const;
  /// The same with several dimensions left out.
  TokenLayout of(const torch::jit::Value* tensor, const std::vector<LeftOutDim>& without) const;

  const TokenFlow& flow() const { return flow_; }

 private:
  std::vector<ArgumentDim> arguments_of(int symbol) const;
  TokenDim token_dim(const Factor& factor) const;
  TokenDim part_dim(const Axis& part) const;
  std::optional<int> batch_among(const std::vector<int>& classes) const;
  bool is_first_dim(int class_id) const;
  bool is_square(int64_t argument) const;
  MaskDims mask_dims(int64_t argument, int batch, const Factor* sequence) const;
  TokenMask placed(TokenMask mask, int batch, const Factor* sequence) const;

  TokenFlow flow_;
  std::vector<TokenMask> masks_;  // arguments of two dimensions that no embedding is looked up by
};

}  // namespace moetap::hooks
