#pragma once

#include "hooks/routers/router_fact.h"

namespace moetap::hooks {

/// True for one of the slots that were taken apart.
bool is_piece(const Fact& fact);

/// True for numbers that are computed alike.
bool is_same_number(const torch::jit::Value* a, const torch::jit::Value* b);

/// True if the number is that of the turns of the loop that `node` stands in: 0, 1, 2, ...
bool counts_turns(const torch::jit::Value* number, const torch::jit::Node& node);

}  // namespace moetap::hooks
