#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "hooks/tokens/axes.h"

namespace moetap::hooks {

/// What is known of a value of a method graph.
struct AxisFact {
  bool reached = false;                   // false: no path has made it so far
  std::optional<std::vector<Axis>> axes;  // of a tensor; empty: not known
  // The argument whose rank decides the tensor's; -1: none, or several.
  int64_t rank_of = -1;
  std::optional<Axis> number;                     // of an int, or of a tensor that holds one
  std::optional<std::vector<AxisFact>> elements;  // of a list or tuple whose length is known
  std::shared_ptr<const AxisFact> every;          // of a list: each of its elements

  bool operator==(const AxisFact& other) const {
    const bool same_every = every == other.every || (every && other.every && *every == *other.every);
    return reached == other.reached && axes == other.axes && number == other.number && elements == other.elements &&
           same_every;
  }
};

inline AxisFact unknown_fact() {
  AxisFact fact;
  fact.reached = true;
  return fact;
}

inline AxisFact tensor_fact(std::vector<Axis> axes, int64_t rank_of = -1) {
  AxisFact fact = unknown_fact();
  fact.axes = std::move(axes);
  fact.rank_of = rank_of;
  return fact;
}

inline AxisFact number_fact(Axis size) {
  AxisFact fact = unknown_fact();
  fact.number = std::move(size);
  return fact;
}

inline AxisFact list_fact(std::vector<AxisFact> elements) {
  AxisFact fact = unknown_fact();
  fact.elements = std::move(elements);
  return fact;
}

inline AxisFact list_of(AxisFact every) {
  AxisFact fact = unknown_fact();
  fact.every = std::make_shared<const AxisFact>(std::move(every));
  return fact;
}

/// Of the i-th element of a list.
inline AxisFact element_of(const AxisFact& list, size_t i) {
  if (list.elements && i < list.elements->size()) return (*list.elements)[i];
  return list.every ? *list.every : unknown_fact();
}

}  // namespace moetap::hooks
