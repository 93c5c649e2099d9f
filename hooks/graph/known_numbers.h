#pragma once

#include <cstdint>
#include <optional>

#include "hooks/graph/method_graph.h"

namespace moetap::hooks {

/// What models write over scores that are not to be selected, or add to them: this, or less.
inline constexpr double kClosedScore = -1e4;

/// Bounds of integers, both included.
struct NumberRange {
  int64_t least = 0;
  int64_t largest = 0;
};

/// The bounds of the integers that the graph fixes for a tensor, a number or a list of numbers before it runs: a
/// constant, a buffer, `full`, `arange`, and what is copied, laid out or added up of them. Empty where it does not.
std::optional<NumberRange> known_numbers(const MethodGraph& graph, const torch::jit::Value* value);

/// The one number that a value is in this module: a constant or an attribute, also a tensor of one element.
std::optional<double> constant_number(const MethodGraph& graph, const torch::jit::Value* value);

}  // namespace moetap::hooks
