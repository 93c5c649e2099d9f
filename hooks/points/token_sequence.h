#pragma once

#include <algorithm>

#include "hooks/points/token_layout.h"

namespace moetap::hooks {

/// The dimension along which the tokens of a layout follow each other; null: not known, or none.
inline const TokenDim* sequence_of(const TokenLayout& layout) {
  const auto found = std::find_if(layout.dims.begin(), layout.dims.end(),
                                  [](const TokenDim& dim) { return dim.role == TokenDimRole::kSequence; });
  return !layout.known || found == layout.dims.end() ? nullptr : &*found;
}

/// Whether two dimensions are the same one of an argument.
inline bool share_argument(const TokenDim& a, const TokenDim& b) {
  return std::any_of(a.arguments.begin(), a.arguments.end(), [&](const ArgumentDim& one) {
    return std::find(b.arguments.begin(), b.arguments.end(), one) != b.arguments.end();
  });
}

}  // namespace moetap::hooks
