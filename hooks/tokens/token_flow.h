#pragma once

#include <cstdint>
#include <string>
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
  /// True for what a method keeps between forwards, in an argument or a buffer of a module: no hidden state.
  bool is_cache(const torch::jit::Value* value) const;
  void find_written_parts();
  /// True for an argument that two dimensions are assumed of, and of which nothing says so.
  bool may_be_one_a_sample(int64_t argument) const;
  /// What is known of an element of a list of caches, into which the method writes.
  AxisFact cache_in_list(const torch::jit::Value* element);
  void require_rank(const torch::jit::Value* value, int64_t rank, bool at_least);
  /// Something is put behind an argument along a dimension: of its others only the first may run along samples.
  void grows_along(const torch::jit::Value* value, int64_t dim);

  const MethodGraph& graph_;
  const ValueOrigins& origins_;
  std::vector<const torch::jit::Value*> arguments_;
  std::vector<bool> is_state_;  // of the arguments
  std::vector<int64_t> ranks_;
  // Of the arguments: the dimension along which something is put behind them, as keys behind a cache of keys; -1: none.
  std::vector<int64_t> grown_along_;
  bool ranks_changed_ = false;
  AxisSymbols symbols_;
  std::unordered_map<const torch::jit::Value*, AxisFact> facts_;
  std::vector<int64_t> looked_up_;
  // Parts of caches that are written at places that differ from forward to forward, where the cache itself is read
  // later: `cache[:, :, p:q] = keys`.
  struct WrittenPart {
    const torch::jit::Value* argument = nullptr;  // null: an attribute
    std::vector<std::string> attribute;
    int64_t dim = 0;      // from the end where it is negative
    int64_t places = -1;  // the argument that holds the places; -1: the graph does not tell
    // Where the cache is an element of a list, the element, and what is written into it: it has as many dimensions.
    const torch::jit::Value *element = nullptr, *written = nullptr;
  };
  void mark_written(std::vector<Axis>& axes, const WrittenPart& part, const void* owner);
  std::vector<WrittenPart> written_parts_;
};

}  // namespace moetap::hooks
