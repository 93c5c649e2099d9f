#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <cstddef>
#include <vector>

namespace moetap::hooks {

/// The inputs of a `moetap::router`, see operator_schemas.h.
namespace router_inputs {
inline constexpr size_t kHook = 1, kLogits = 2, kScores = 3, kSelected = 4, kWeights = 5, kExpertDim = 6, kForm = 7,
                        kInput = 9, kNoInput = 10;
}  // namespace router_inputs

/// Where a tensor is read: by the operator itself, or by the list that it gets.
struct TensorInput {
  torch::jit::Node* reader = nullptr;
  size_t index = 0;

  torch::jit::Value* value() const { return reader->input(index); }
};

/// The tensors of kSelected or kWeights; none where the model has none.
std::vector<TensorInput> tensors_of_input(torch::jit::Node* router, size_t input);

}  // namespace moetap::hooks
