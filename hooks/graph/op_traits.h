#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <string>
#include <string_view>

namespace moetap::hooks {

/// What an operator does to a tensor of scores, expert ids or gate weights: the terms in which dataflow is followed.
enum class OpKind {
  kOther,        // not known: its results are not followed
  kCopy,         // same elements in the same order, maybe another dtype or device: `to`, `contiguous`, `clone`
  kReshape,      // same elements in the same order: `view`, `unsqueeze`, `flatten`
  kMoveAxis,     // same elements in another order: `transpose`, `permute`, `flip`
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
  kMixOther,     // others that make a hidden state of a model's input: norms, attention, recurrent cells
  kGather,       // `gather`, `take_along_dim`: (source, dim, index)
  kIndex,        // `index`, `index_select`, `embedding`: part of the source chosen by indices
  kScatter,      // `scatter`: (self, dim, index, source)
  kIndexWrite,   // `index_put`, `index_add`, `index_copy`
  kOneHot,
  kCompare,
  kLogical,
  kNonzero,  // `nonzero`, `where` of one argument
  kWhere,    // `where` of three arguments
  kMaskedFill,
  kConcatenate,  // `cat`, `stack`, `pad`
  kSample,       // `multinomial`
  kFresh,        // new tensors that only take a shape or a type from their inputs: `zeros_like`
};

OpKind op_kind(const torch::jit::Node& node);

/// What copies and casts (OpKind::kCopy) made the value of; the value itself where none did.
const torch::jit::Value* without_copies(const torch::jit::Value* value);
torch::jit::Value* without_copies(torch::jit::Value* value);

/// The operator's name without its namespace and the trailing underscore of in-place operators: "div" for `aten::div_`.
std::string base_name(const torch::jit::Node& node);

/// True for a tensor, not for an optional one or a list.
bool is_tensor(const torch::jit::Value* value);

/// True for operators that change their first input and return it.
bool is_in_place(const torch::jit::Node& node);

/// True for operators whose result holds elements of their first input and may share its memory: `view`, `slice`,
/// `expand`, a `to` that changes nothing. What is written into one may be in the other.
bool may_be_view(const torch::jit::Node& node);

/// True for operators that change the places of the elements along a dimension, and no sizes: `flip`, `roll`.
bool turns_elements(const torch::jit::Node& node);

/// The tensor of indices that `index`, `index_select`, `gather` and `embedding` choose by: the last of several.
const torch::jit::Value* index_of(const torch::jit::Node& node);

/// True for zeros and ones that a comparison or a one-hot made, cast or in another shape: no hidden state.
bool is_made_by_comparison(const torch::jit::Value* value);

}  // namespace moetap::hooks
