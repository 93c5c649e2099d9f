#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace moetap::hooks {

/// A mask by which elements of a value were kept; the others are zero, or another number.
struct KeptBy {
  const torch::jit::Value* mask = nullptr;  // null: not known
  bool where_true = true;                   // kept where the mask is true; false: where it is false

  bool operator==(const KeptBy&) const = default;
};

/// What a condition keeps where it has this value, told by the mask behind its casts, views and negations: two that are
/// equal keep the same elements.
KeptBy kept_by(const torch::jit::Value* condition, bool where_true);

}  // namespace moetap::hooks
