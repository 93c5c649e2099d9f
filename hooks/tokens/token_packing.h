#pragma once

#include <optional>

#include "hooks/graph/method_graph.h"
#include "hooks/points/token_layout.h"
#include "hooks/tokens/token_flow.h"

namespace moetap::hooks {

// Note [Packed tokens]
// Where a model takes padding out before it computes, `x[mask]` or by the places of `nonzero(mask)`, a row is not told
// by its number alone: it is the n-th of the tokens at which the mask is set. The mask is an argument that is compared
// with a number, and its values are known at the beginning of a forward. So such a dimension is a symbol of its own
// that remembers what it was taken from and which of it is left; in the run the tokens that are left, in order, are the
// rows. Of masks that are computed in another way nothing is known, and what they leave is a dimension that no argument
// has.

/// The tokens at which a bool mask is true, if it is an argument that is compared with a number, perhaps in another
/// shape or layout. Empty: something else.
std::optional<TokenPacking> packing_of(const torch::jit::Value* mask, const TokenFlow& flow, const MethodGraph& graph);

/// The argument that holds the numbers of a value, perhaps in another shape or layout; -1: none does.
int64_t argument_of_numbers(const torch::jit::Value* value, const TokenFlow& flow, const MethodGraph& graph);

/// True if the value holds bools, as far as the graph shows it.
bool holds_bools(const torch::jit::Value* value, const MethodGraph& graph);

/// A column of the places that `nonzero` found, one for each dimension of its mask.
struct FoundPlaces {
  const torch::jit::Node* nonzero = nullptr;
  int64_t column = 0;
};

/// What `index` holds, if it is such a column, whatever its type and shape. Empty: something else.
std::optional<FoundPlaces> found_places(const torch::jit::Value* index, const MethodGraph& graph);

}  // namespace moetap::hooks
