#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace moetap::hooks {

/// True for indices that a pick gave, and for what was computed of them alone: `3 * best`.
bool are_picked(const torch::jit::Value* value);

}  // namespace moetap::hooks
