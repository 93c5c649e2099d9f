// Operators that give the same elements other dimensions, or another order of them.

#include <algorithm>
#include <numeric>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"

namespace moetap::hooks {
namespace jit = torch::jit;

AxisFact AxisTransfer::view(const MaybeAxes& source, const std::vector<ViewSize>& sizes) {
  if (!source || sizes.empty()) return unknown_fact();
  auto axes = view_axes(*source, sizes, node_->output(0), symbols_);
  return axes ? tensor_fact(std::move(*axes)) : unknown_fact();
}

AxisFact AxisTransfer::flatten(const Axes& source) {
  if (source.empty()) return tensor({{Axis()}});
  const auto first = dim_named("start_dim", source.size(), 0), last = dim_named("end_dim", source.size(), -1);
  if (!first || !last || *first > *last) return unknown_fact();
  Axes axes(source.begin(), source.begin() + *first);
  Axis merged;
  for (int64_t i = *first; i <= *last; ++i) {
    const Axis& axis = source[static_cast<size_t>(i)];
    merged.insert(merged.end(), axis.begin(), axis.end());
  }
  axes.push_back(std::move(merged));
  axes.insert(axes.end(), source.begin() + *last + 1, source.end());
  return tensor_fact(std::move(axes));
}

AxisFact AxisTransfer::squeeze(const Axes& source) {
  const jit::Value* which = named("dim");
  std::vector<int64_t> dims;
  if (which != nullptr) {
    const auto found = dims_named("dim", source.size());
    if (!found) return unknown_fact();
    dims = *found;
  } else {
    dims.resize(source.size());
    std::iota(dims.begin(), dims.end(), 0);
  }
  Axes axes;
  for (size_t i = 0; i < source.size(); ++i) {
    const bool asked = std::find(dims.begin(), dims.end(), static_cast<int64_t>(i)) != dims.end();
    if (asked && source[i].empty()) continue;
    // Whether another dimension is of size 1 shows only in the run.
    if (asked && !constant_size(source[i])) return unknown_fact();
    axes.push_back(source[i]);
  }
  return tensor(axes);
}

AxisFact AxisTransfer::permute(const Axes& source, const std::string& name) {
  const size_t rank = source.size();
  std::vector<size_t> order(rank);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto exchange = [&](const std::optional<int64_t>& a, const std::optional<int64_t>& b) {
    if (!a || !b) return false;
    std::swap(order[static_cast<size_t>(*a)], order[static_cast<size_t>(*b)]);
    return true;
  };
  if (name == "permute") {
    const auto dims = dims_named("dims", rank);
    if (!dims || dims->size() != rank) return unknown_fact();
    for (size_t i = 0; i < rank; ++i) order[i] = static_cast<size_t>((*dims)[i]);
  } else if (name == "numpy_T" || name == "t") {
    std::reverse(order.begin(), order.end());
  } else if (name == "mT" || name == "adjoint" || name == "matrix_H") {
    if (rank < 2) return unknown_fact();
    std::swap(order[rank - 1], order[rank - 2]);
  } else if (name == "movedim" || name == "moveaxis") {
    const auto from = dims_named("source", rank), to = dims_named("destination", rank);
    if (!from || !to || from->size() != to->size()) return unknown_fact();
    std::vector<size_t> moved(rank, rank);
    for (size_t i = 0; i < from->size(); ++i) moved[static_cast<size_t>((*to)[i])] = static_cast<size_t>((*from)[i]);
    size_t next = 0;
    for (size_t& place : moved) {
      if (place != rank) continue;
      while (std::find(from->begin(), from->end(), static_cast<int64_t>(next)) != from->end()) ++next;
      place = next++;
    }
    order = moved;
  } else {
    const bool by_axis = name == "swapaxes";
    if (!exchange(dim(named(by_axis ? "axis0" : "dim0"), rank), dim(named(by_axis ? "axis1" : "dim1"), rank))) {
      return unknown_fact();
    }
  }
  Axes axes;
  for (const size_t from : order) axes.push_back(source[from]);
  return tensor(axes);
}

std::optional<AxisTransfer::Results> AxisTransfer::views(const std::string& name) {
  if (name == "view" || name == "reshape" || name == "_unsafe_view" || name == "_reshape_alias") {
    const jit::Value* sizes = node_->inputs().size() > 1 ? node_->input(1) : nullptr;
    if (sizes == nullptr || sizes->type()->kind() == c10::TypeKind::IntType) return Results{fact(node_->input(0))};
    return Results{view(input_axes(0), view_sizes(sizes))};
  }
  if (name == "view_as" || name == "reshape_as") {
    const MaybeAxes other = input_axes(1);
    if (!other) return Results{unknown_fact()};
    std::vector<ViewSize> sizes;
    for (const Axis& axis : *other) sizes.push_back({ViewSize::Kind::kKnown, axis});
    return Results{view(input_axes(0), sizes)};
  }
  if (name == "flatten" || name == "ravel") return with_input([&](const Axes& source) { return flatten(source); });
  if (name == "unflatten") {
    return with_input([&](const Axes& source) {
      const auto place = dim_named("dim", source.size(), 0);
      if (!place || named("sizes") == nullptr) return unknown_fact();
      const auto cut =
          view_axes({source[static_cast<size_t>(*place)]}, view_sizes(named("sizes")), node_->output(0), symbols_);
      if (!cut) return unknown_fact();
      Axes axes = source;
      axes.erase(axes.begin() + *place);
      axes.insert(axes.begin() + *place, cut->begin(), cut->end());
      return tensor_fact(std::move(axes));
    });
  }
  if (name == "unsqueeze") {
    return with_input([&](const Axes& source) {
      const auto place = dim_named("dim", source.size() + 1, 0);
      if (!place) return unknown_fact();
      Axes axes = source;
      axes.insert(axes.begin() + *place, Axis());
      return tensor(axes);
    });
  }
  if (name == "squeeze") return with_input([&](const Axes& source) { return squeeze(source); });
  if (name == "permute" && named("dims") != nullptr && fact(named("dims")).elements) {
    flow_.require_rank(node_->input(0), static_cast<int64_t>(list_elements(named("dims")).size()), false);
  }
  if (name == "transpose" || name == "permute" || name == "t" || name == "movedim" || name == "moveaxis" ||
      name == "swapaxes" || name == "swapdims" || name == "numpy_T" || name == "mT" || name == "adjoint" ||
      name == "matrix_H") {
    return with_input([&](const Axes& source) { return permute(source, name); });
  }
  if (name == "flip" || name == "roll") {
    return with_input([&](const Axes& source) {
      const auto dims = dims_named("dims", source.size());
      if (!dims) return unknown_fact();
      Axes axes = source;
      for (const int64_t place : *dims) {
        Axis& axis = axes[static_cast<size_t>(place)];
        axis = symbols_.turned(node_->output(0), place, axis);
      }
      return tensor(axes);
    });
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
