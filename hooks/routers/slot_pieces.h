#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace moetap::hooks {

/// False if a `cat` or `stack` puts pieces of a value together in another order than they were taken in.
bool joins_pieces_in_order(const torch::jit::Node& concatenation);

}  // namespace moetap::hooks
