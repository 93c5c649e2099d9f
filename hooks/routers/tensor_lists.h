#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <vector>

namespace moetap::hooks {

/// Tensors of a list that is built at once or appended to, in order; or the value itself where it is no such list.
std::vector<torch::jit::Value*> list_elements(torch::jit::Value* value);

/// True for a list that is appended to in a loop or a branch: it holds an element more than once, or not at all.
bool grows_in_loop(const torch::jit::Value* list);

}  // namespace moetap::hooks
