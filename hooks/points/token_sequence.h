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

/// Whether the sequence of `tokens` is the first part of that of `keys`, and the last part is another: keys that are
/// none of these tokens stand behind them.
inline bool stands_in_front(const TokenLayout& tokens, const TokenLayout& keys) {
  const TokenDim *own = sequence_of(tokens), *all = sequence_of(keys);
  if (own == nullptr || all == nullptr || all->parts.size() < 2) return false;
  return share_argument(all->parts.front(), *own) && !share_argument(all->parts.back(), *own);
}

}  // namespace moetap::hooks
