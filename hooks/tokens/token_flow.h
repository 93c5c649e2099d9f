#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "hooks/graph/method_graph.h"
#include "hooks/graph/value_origins.h"
#include "hooks/tokens/axis_fact.h"

namespace moetap::hooks {

// Note [Following dimensions]
// Each tensor of a method graph has axes: for each dimension, which dimensions of which arguments it runs along. They
// are followed forward from the arguments through the operators that tell what they do to dimensions; an operator that
// is not known loses all of them. A residual sum with such a tensor keeps those of the stream.
//
// The graph does not say how many dimensions an argument has. Two are assumed of ids and masks, three of an argument
// that is a hidden state, and where an operator shows another number (`permute`, a convolution, sizes that are
// unpacked) the flow starts over with it. What was found holds only for arguments of that rank, and says so
// (ArgumentDim::rank).

/// The axes of all values of a method graph.
class TokenFlow {
 public:
  TokenFlow(const MethodGraph& graph, const ValueOrigins& origins);

  const AxisFact& of(const torch::jit::Value* value) const;
  const AxisSymbols& symbols() const { return symbols_; }

  /// The Tensor and Tensor? arguments, as `moetap::begin` gets them.
  const std::vector<const torch::jit::Value*>& arguments() const { return arguments_; }
  int64_t rank(int64_t argument) const { return ranks_[static_cast<size_t>(argument)]; }
  /// Arguments that embeddings are looked up by, in order of use.
  const std::vector<int64_t>& looked_up() const { return looked_up_; }
  /// The argument that a value is, perhaps of another type, shape or order; -1: none.
  int64_t argument_behind(const torch::jit::Value* value) const;

 private:
  friend class AxisTransfer;

  void run();
  void start();
  bool visit(torch::jit::Node* node);
  bool visit_return(torch::jit::Node* node);
  bool put(const torch::jit::Value* value, AxisFact fact);
  void look_up(int64_t argument);
  AxisFact join(const AxisFact& a, const AxisFact& b, const torch::jit::Value* value);
  bool is_dead(const torch::jit::Block* block) const;
  bool is_never_run(const torch::jit::Node* node) const;
  /// An operator works only where the value has this many dimensions (`at_least`: or more).
  void require_rank(const torch::jit::Value* value, int64_t rank, bool at_least);

  const MethodGraph& graph_;
  const ValueOrigins& origins_;
  std::vector<const torch::jit::Value*> arguments_;
  std::vector<bool> is_state_;  // of the arguments
  std::vector<int64_t> ranks_;
  bool ranks_changed_ = false;
  AxisSymbols symbols_;
  std::unordered_map<const torch::jit::Value*, AxisFact> facts_;
  std::vector<int64_t> looked_up_;
};

}  // namespace moetap::hooks
