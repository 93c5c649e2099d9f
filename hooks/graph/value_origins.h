#pragma once

#include <unordered_map>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// What a value is computed from. Ordered: a value that is computed from several has the largest of their origins.
enum class Origin {
  kConstant,    // constants, sizes, new tensors
  kParameter,   // parameters and buffers of the module, and what is computed from them alone
  kInput,       // the method's arguments, only reshaped, compared or scaled: masks, ids
  kActivation,  // hidden states: an argument after a projection, an embedding, a norm, attention
};

/// Origins of all values of a method graph, found in one pass in order of execution (two for loops).
class ValueOrigins {
 public:
  explicit ValueOrigins(const MethodGraph& graph);

  Origin of(const torch::jit::Value* value) const;
  bool is_activation(const torch::jit::Value* value) const { return of(value) == Origin::kActivation; }
  bool is_parameter(const torch::jit::Value* value) const { return of(value) == Origin::kParameter; }

 private:
  bool visit(torch::jit::Node* node);
  bool raise(const torch::jit::Value* value, Origin origin);
  void mark_projected_inputs();

  const MethodGraph& graph_;
  std::unordered_map<const torch::jit::Value*, Origin> origins_;
};

/// A projection of a hidden state by a parameter, or by a value that is computed from parameters alone.
struct Projection {
  torch::jit::Node* node = nullptr;
  torch::jit::Value* parameter = nullptr;
  torch::jit::Value* activation = nullptr;
};

/// True for a product that has the parameter on its left, `matmul(weight, x)`: the projected axis lies before the
/// tokens.
bool is_weight_first(const Projection& projection);

/// True if `node` projects activations by a parameter, also by a product that is summed, and fills `projection`.
bool match_projection(torch::jit::Node* node, const ValueOrigins& origins, Projection& projection);

}  // namespace moetap::hooks
