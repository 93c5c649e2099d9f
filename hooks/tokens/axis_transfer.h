#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hooks/tokens/token_flow.h"
#include "hooks/tokens/view_axes.h"

namespace moetap::hooks {

/// What one operator does to the axes of its operands.
class AxisTransfer {
 public:
  using Results = std::vector<AxisFact>;

  AxisTransfer(TokenFlow& flow, torch::jit::Node* node) : flow_(flow), node_(node), symbols_(flow.symbols_) {}

  /// Of the node's outputs, in order; those that are missing are not known.
  Results results();

 private:
  using Axes = std::vector<Axis>;
  using MaybeAxes = std::optional<Axes>;

  // Operands. An argument of the operator's schema by its name, null if the operator has none of that name.
  const torch::jit::Value* named(const char* name) const;
  bool is_none(const torch::jit::Value* value) const;
  AxisFact fact(const torch::jit::Value* value) const;
  MaybeAxes axes(const torch::jit::Value* value) const { return fact(value).axes; }
  MaybeAxes input_axes(size_t i) const;
  std::optional<int64_t> constant(const torch::jit::Value* value) const;
  /// A dimension of a tensor of `rank`, from 0; empty if it is not constant or out of range.
  std::optional<int64_t> dim(const torch::jit::Value* value, size_t rank) const;
  std::optional<int64_t> dim_named(const char* name, size_t rank, int64_t otherwise) const;
  std::optional<std::vector<int64_t>> dims_named(const char* name, size_t rank) const;
  bool flag(const char* name) const;
  Axis fresh(size_t place) const {
    return symbols_.fresh(node_->outputs().empty() ? nullptr : node_->output(0), static_cast<int64_t>(place));
  }
  /// The axis whose size is a number.
  Axis number_axis(const torch::jit::Value* value, size_t place) const;
  Axis number_axis(const Axis& number, size_t place) const;
  std::vector<ViewSize> view_sizes(const torch::jit::Value* list) const;
  std::vector<AxisFact> list_elements(const torch::jit::Value* list) const;

  AxisFact tensor(MaybeAxes axes) const;
  /// What a function makes of the first operand's axes, where they are known.
  template <typename Function>
  Results with_input(Function&& function) {
    const MaybeAxes source = input_axes(0);
    return {source ? function(*source) : unknown_fact()};
  }
  Axes broadcast(const Axes& a, const Axes& b) const;

  // Groups of operators; empty: not one of them. See the files axis_transfer_*.cpp.
  std::optional<Results> values(const std::string& name);    // numbers, lists, tuples
  std::optional<Results> views(const std::string& name);     // the same elements in other dimensions
  std::optional<Results> parts(const std::string& name);     // slices, pieces
  std::optional<Results> joins(const std::string& name);     // repetitions, concatenations, padding
  std::optional<Results> products(const std::string& name);  // matrices, convolutions, attention
  std::optional<Results> picks(const std::string& name);     // reductions, top-k
  std::optional<Results> places(const std::string& name);    // indexing, places that a mask sets

  void agree_on_ranks();
  AxisFact elementwise();
  AxisFact fresh_tensor(const std::string& name);
  AxisFact view(const MaybeAxes& source, const std::vector<ViewSize>& sizes);
  AxisFact flatten(const Axes& source);
  AxisFact squeeze(const Axes& source);
  AxisFact permute(const Axes& source, const std::string& name);
  std::optional<Axis> length_behind(const torch::jit::Value* start, const Axis& size);
  AxisFact slice(const Axes& source);
  AxisFact expand(const Axes& source);
  AxisFact repeat(const Axes& source);
  AxisFact repeat_interleave(const Axes& source);
  AxisFact concatenate();
  AxisFact stack();
  AxisFact split(const Axes& source, const std::string& name);
  AxisFact pad(const Axes& source);
  AxisFact matmul(const torch::jit::Value* left, const torch::jit::Value* right);
  void mark_attention(const Axis& rows, const Axis& keys);
  AxisFact einsum();
  AxisFact convolution(const std::string& name);
  AxisFact attention();
  AxisFact reduce(const Axes& source, const std::string& name);
  AxisFact index();
  AxisFact index_select(const Axes& source);
  AxisFact gather(const char* index_name);
  AxisFact write_to_places();
  Axis left_by(const torch::jit::Value* mask, const Axes& along, size_t place);
  std::optional<Axis> left_by_places(const std::vector<const torch::jit::Value*>& indices, const Axes& along);

  TokenFlow& flow_;
  torch::jit::Node* node_;
  AxisSymbols& symbols_;
};

/// The value of a condition that the graph or the ranks fix.
std::optional<bool> constant_bool(const TokenFlow& flow, const MethodGraph& graph, const torch::jit::Value* value);

}  // namespace moetap::hooks
