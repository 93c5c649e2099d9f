#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include "hooks/graph/known_shapes.h"
#include "hooks/graph/value_origins.h"

namespace moetap::hooks {

/// What becomes of a product of weights with an activation of which the graph does not tell how wide it is.
enum class LaterProduct {
  kNone,     // it is multiplied by no other activation: this one was the hidden state
  kAnother,  // it is multiplied by another one: either of the two may be the hidden state
  kSpread,   // it gets a dimension of size 1 before: it was one number a token or slot still, the factor is in it
};

LaterProduct later_product(const torch::jit::Value* product, const ValueOrigins& origins, KnownShapes& shapes);

}  // namespace moetap::hooks
