#pragma once

#include <optional>
#include <vector>

#include "hooks/tokens/axes.h"

namespace moetap::hooks {

/// A size that `view` was given.
struct ViewSize {
  enum class Kind { kKnown, kRest, kUnknown };  // kRest: -1
  Kind kind = Kind::kUnknown;
  Axis size;  // of a known one
};

/// The axes of `source` after a view with `sizes`: the same factors in the same order, cut in other places. Sizes are
/// matched from both ends; what is left over in the middle keeps its factors if it is one dimension, or as many as
/// before. Other dimensions are fresh ones of `owner`. Empty if the sizes contradict the source.
std::optional<std::vector<Axis>> view_axes(const std::vector<Axis>& source, const std::vector<ViewSize>& sizes,
                                           const void* owner, AxisSymbols& symbols);

}  // namespace moetap::hooks
