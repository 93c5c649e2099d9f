#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <string>
#include <string_view>

namespace moetap::hooks {

/// What an operator does to a tensor of router scores, expert ids or gate weights; the vocabulary of the dataflow
/// rules.
enum class OpKind {
  kOther,        // nothing is known: what is derived through it is not followed
  kCopy,         // same elements in the same order, maybe another dtype or device: `to`, `contiguous`, `clone`
  kReshape,      // same elements in the same order: `view`, `unsqueeze`, `flatten`
  kMoveAxis,     // same elements in another order: `transpose`, `permute`
  kSlice,        // a range along a dimension: `slice`, `narrow`
  kSelect,       // one place along a dimension: `select`
  kSplit,        // a list of parts: `chunk`, `split`, `unbind`
  kRepeat,       // elements repeated: `expand`, `repeat`
  kElementwise,  // arithmetic of one or more operands: `add`, `mul`, `exp`
  kMultiply,     // elementwise product: where weights meet what they weigh
  kScoring,      // turns logits into scores: `softmax`, `sigmoid`
  kReduce,       // sums, means, norms, maxima without indices
  kCumulate,     // `cumsum`
  kPick,         // values or indices of the largest: `topk`, `argmax`, `sort`
  kContract,     // sums products over a shared axis: `linear`, `matmul`, `einsum`, convolutions
  kMixOther,  // other operators through which a model's input becomes a hidden state: norms, attention, recurrent cells
  kGather,    // `gather`, `take_along_dim`: (source, dim, index)
  kIndex,     // `index`, `index_select`, `embedding`: part of the source chosen by indices
  kScatter,   // `scatter`: (self, dim, index, source)
  kIndexWrite,  // `index_put`, `index_add`, `index_copy`
  kOneHot,
  kCompare,
  kLogical,
  kNonzero,  // `nonzero`, `where` of one argument
  kWhere,    // `where` of three arguments
  kMaskedFill,
  kConcatenate,  // `cat`, `stack`
  kSample,       // `multinomial`
  kFresh,        // new tensors that only take a shape or a type from their inputs: `zeros_like`
};

OpKind op_kind(const torch::jit::Node& node);

/// The operator's name without name space and without the trailing underscore of an in-place operator: `aten::div_` is
/// "div".
std::string base_name(const torch::jit::Node& node);

/// True for a tensor, not for an optional one or a list.
bool is_tensor(const torch::jit::Value* value);

/// True for operators that change their first input and return it.
bool is_in_place(const torch::jit::Node& node);

}  // namespace moetap::hooks
