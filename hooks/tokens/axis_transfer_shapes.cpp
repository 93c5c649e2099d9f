// Operators that cut, order, repeat and join dimensions.

#include <algorithm>
#include <limits>
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

// The size of what is left behind `start` along a dimension of `size`, where it is that of something else: `-n`, or
// `size - n`.
std::optional<Axis> AxisTransfer::length_behind(const jit::Value* start, const Axis& size) {
  while (start->node()->inputs().size() == 1 && base_name(*start->node()) != "neg") start = start->node()->input(0);
  const jit::Node& node = *start->node();
  const std::string name = base_name(node);
  const bool from_end = name == "neg";
  if (!from_end && (name != "sub" || fact(node.input(0)).number != size)) return std::nullopt;
  const auto length = fact(node.input(from_end ? 0 : 1)).number;
  const bool one = length && length->size() == 1 && !(*length)[0].is_constant();
  return one ? length : std::nullopt;
}

AxisFact AxisTransfer::slice(const Axes& source) {
  const auto along = dim_named("dim", source.size(), 0);
  if (!along) return unknown_fact();
  const auto place = static_cast<size_t>(*along);
  const jit::Value *start = named("start"), *end = named("end"), *step = named("step");
  const auto first = is_none(start) ? 0 : constant(start);
  const bool to_the_end = is_none(end) || constant(end) == std::numeric_limits<int64_t>::max();
  const bool by_one = step == nullptr || constant(step) == 1;
  const AxisFact last = end == nullptr ? unknown_fact() : fact(end);
  const bool whole = first == 0 && by_one && (to_the_end || (last.number && *last.number == source[place]));
  Axes axes = source;
  if (whole) return tensor(axes);
  if (const auto length =
          by_one && to_the_end && !is_none(start) ? length_behind(start, source[place]) : std::nullopt) {
    // `mask[:, -ids.size(1):]`: as long as something else, and behind all others.
    symbols_.mark_end(source[place], *length);
    axes[place] = *length;
    return tensor(axes);
  }
  axes[place] = fresh(place);
  if (const auto size = constant_size(source[place]); size && first && by_one) {
    const auto bound = [&](int64_t at) { return std::clamp(at < 0 ? at + *size : at, int64_t{0}, *size); };
    const auto stop = to_the_end ? *size : constant(end);
    if (stop && bound(*first) < bound(*stop)) axes[place] = constant_axis(bound(*stop) - bound(*first));
  }
  return tensor(axes);
}

AxisFact AxisTransfer::expand(const Axes& source) {
  Axes sizes;
  std::vector<bool> keeps;
  if (const jit::Value* other = named("other")) {
    const MaybeAxes wanted = axes(other);
    if (!wanted) return unknown_fact();
    sizes = *wanted;
    keeps.assign(sizes.size(), false);
  } else {
    const jit::Value* list = named("size");
    if (list == nullptr || !fact(list).elements) return unknown_fact();
    for (const AxisFact& element : list_elements(list)) {
      keeps.push_back(element.number && constant_size(*element.number) == -1);
      sizes.push_back(element.number && !keeps.back() ? number_axis(*element.number, sizes.size())
                                                      : fresh(sizes.size()));
    }
  }
  if (sizes.size() < source.size()) return unknown_fact();
  const size_t added = sizes.size() - source.size();
  Axes result;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const Axis own = i < added ? Axis() : source[i - added];
    if (keeps[i]) {
      result.push_back(own);
    } else {
      result.push_back(own.empty() || constant_size(sizes[i]) ? (own.empty() ? sizes[i] : own)
                                                              : symbols_.meet(own, sizes[i]));
    }
  }
  return tensor(result);
}

AxisFact AxisTransfer::repeat(const Axes& source) {
  const jit::Value* list = named("repeats");
  if (list == nullptr) list = named("dims");
  if (list == nullptr || !fact(list).elements) return unknown_fact();
  Axes times;
  for (const AxisFact& element : list_elements(list)) {
    times.push_back(element.number ? number_axis(*element.number, times.size()) : fresh(times.size()));
  }
  const size_t rank = std::max(times.size(), source.size());
  times.insert(times.begin(), rank - times.size(), Axis());
  Axes result;
  for (size_t i = 0; i < rank; ++i) {
    Axis axis = times[i];
    const Axis own = i < rank - source.size() ? Axis() : source[i - (rank - source.size())];
    axis.insert(axis.end(), own.begin(), own.end());
    result.push_back(std::move(axis));
  }
  return tensor(result);
}

AxisFact AxisTransfer::repeat_interleave(const Axes& source) {
  const jit::Value *times = named("repeats"), *along = named("dim");
  if (times == nullptr || is_none(along)) return unknown_fact();
  const auto place = dim(along, source.size());
  if (!place) return unknown_fact();
  Axes axes = source;
  Axis& axis = axes[static_cast<size_t>(*place)];
  if (is_tensor(times)) {
    axis = fresh(static_cast<size_t>(*place));
  } else {
    const Axis each = number_axis(times, static_cast<size_t>(*place));
    axis.insert(axis.end(), each.begin(), each.end());
  }
  return tensor(axes);
}

AxisFact AxisTransfer::concatenate() {
  const jit::Node* made = node_->input(0)->node();
  if (made->kind() == jit::prim::ListConstruct) {
    // An argument of which nothing else tells, a cache beside the keys, has as many dimensions as the others.
    const auto is_sure = [&](const AxisFact& found) {
      const auto& ids = flow_.looked_up_;
      return found.rank_of < 0 || flow_.is_state_[static_cast<size_t>(found.rank_of)] ||
             std::find(ids.begin(), ids.end(), found.rank_of) != ids.end();
    };
    int64_t rank = 0;
    for (const jit::Value* part : made->inputs()) {
      const AxisFact found = fact(part);
      if (found.axes && is_sure(found)) rank = std::max(rank, static_cast<int64_t>(found.axes->size()));
    }
    const auto along = dim_named("dim", static_cast<size_t>(rank), 0);
    for (const jit::Value* part : made->inputs()) {
      if (is_sure(fact(part))) continue;
      flow_.require_rank(part, rank, /*at_least=*/true);
      if (rank >= 3 && along) flow_.grows_along(part, *along);
    }
  }
  const AxisFact list = fact(node_->input(0));
  std::vector<AxisFact> elements;
  if (list.elements) elements = *list.elements;
  if (list.every) elements = {*list.every};
  MaybeAxes known;
  int64_t rank_of = -1;
  for (const AxisFact& element : elements) {
    if (element.axes && (!known || element.axes->size() == known->size())) {
      if (!known) rank_of = element.rank_of;
      Axes own = *element.axes;
      // Behind each other, two parts are not along the same thing.
      const auto joined = known ? dim_named("dim", own.size(), 0) : std::nullopt;
      if (joined) own[static_cast<size_t>(*joined)] = (*known)[static_cast<size_t>(*joined)];
      known = known ? broadcast(*known, own) : own;
    }
  }
  if (!known || known->empty()) return unknown_fact();
  const auto along = dim_named("dim", known->size(), 0);
  if (!along) return unknown_fact();
  const auto place = static_cast<size_t>(*along);
  Axes axes = *known;
  // The other dimensions of all parts are the same; along this one they have nothing in common.
  std::vector<Axis> parts;
  int64_t constant = 0;
  for (const AxisFact& element : elements) {
    const bool fits = element.axes && element.axes->size() == known->size();
    parts.push_back(fits ? (*element.axes)[place]
                         : symbols_.fresh(node_->output(0), -2 - static_cast<int64_t>(parts.size())));
    const auto size = constant_size(parts.back());
    constant = size && constant >= 0 ? constant + *size : -1;
  }
  if (!list.elements) {
    axes[place] = fresh(place);
  } else if (parts.size() == 1) {
    axes[place] = parts[0];
  } else {
    axes[place] = constant > 0 ? constant_axis(constant) : symbols_.concatenation(node_->output(0), std::move(parts));
  }
  return tensor_fact(std::move(axes), rank_of);
}

AxisFact AxisTransfer::stack() {
  const AxisFact list = fact(node_->input(0));
  const std::vector<AxisFact> elements = list.elements ? *list.elements : std::vector<AxisFact>{element_of(list, 0)};
  MaybeAxes known;
  for (const AxisFact& element : elements) {
    if (element.axes) known = known ? broadcast(*known, *element.axes) : element.axes;
  }
  if (!known) return unknown_fact();
  const auto along = dim_named("dim", known->size() + 1, 0);
  if (!along) return unknown_fact();
  Axes axes = *known;
  const Axis count = list.elements ? constant_axis(static_cast<int64_t>(elements.size())) : fresh(axes.size());
  axes.insert(axes.begin() + *along, count);
  return tensor_fact(std::move(axes));
}

AxisFact AxisTransfer::split(const Axes& source, const std::string& name) {
  const auto along = dim_named("dim", source.size(), 0);
  if (!along) return unknown_fact();
  const auto place = static_cast<size_t>(*along);
  Axes axes = source;
  if (name == "unbind") {
    axes.erase(axes.begin() + *along);
    if (const auto size = constant_size(source[place]); size && *size <= 64) {
      return list_fact(std::vector<AxisFact>(static_cast<size_t>(*size), tensor_fact(axes)));
    }
    return list_of(tensor_fact(axes));
  }
  const auto size = constant_size(source[place]);
  if (const auto chunks = named("chunks") != nullptr ? constant(named("chunks")) : std::nullopt;
      chunks && size && *chunks > 0 && *size % *chunks == 0) {
    axes[place] = constant_axis(*size / *chunks);
    return list_fact(std::vector<AxisFact>(static_cast<size_t>(*chunks), tensor_fact(axes)));
  }
  const jit::Value* list = named(name == "split" ? "split_size" : "split_sizes");
  if (list != nullptr && fact(list).elements) {
    std::vector<AxisFact> parts;
    for (const AxisFact& element : list_elements(list)) {
      const auto part = element.number ? constant_size(*element.number) : std::nullopt;
      axes[place] = part && *part > 0 ? constant_axis(*part)
                                      : symbols_.fresh(node_->output(0), static_cast<int64_t>(64 + parts.size()));
      parts.push_back(tensor_fact(axes));
    }
    return list_fact(std::move(parts));
  }
  axes[place] = fresh(place);
  return list_of(tensor_fact(axes));
}

AxisFact AxisTransfer::pad(const Axes& source) {
  const jit::Value* list = named("pad");
  if (list == nullptr) list = named("padding");
  if (list == nullptr || !fact(list).elements) return unknown_fact();
  const std::vector<AxisFact> by = list_elements(list);
  if (by.size() / 2 > source.size()) return unknown_fact();
  Axes axes = source;
  for (size_t i = 0; i + 1 < by.size(); i += 2) {  // from the last dimension
    const auto none = [](const AxisFact& element) { return element.number && constant_size(*element.number) == 0; };
    const size_t place = source.size() - 1 - i / 2;
    if (!none(by[i]) || !none(by[i + 1])) axes[place] = fresh(place);
  }
  return tensor(axes);
}

std::optional<std::vector<AxisFact>> AxisTransfer::shapes(const std::string& name) {
  using Results = std::vector<AxisFact>;
  const auto with = [&](auto&& function) -> std::optional<Results> {
    const MaybeAxes source = input_axes(0);
    return Results{source ? function(*source) : unknown_fact()};
  };
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
  if (name == "flatten" || name == "ravel") return with([&](const Axes& source) { return flatten(source); });
  if (name == "unflatten") {
    return with([&](const Axes& source) {
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
    return with([&](const Axes& source) {
      const auto place = dim_named("dim", source.size() + 1, 0);
      if (!place) return unknown_fact();
      Axes axes = source;
      axes.insert(axes.begin() + *place, Axis());
      return tensor(axes);
    });
  }
  if (name == "squeeze") return with([&](const Axes& source) { return squeeze(source); });
  if (name == "permute" && named("dims") != nullptr && fact(named("dims")).elements) {
    flow_.require_rank(node_->input(0), static_cast<int64_t>(list_elements(named("dims")).size()), false);
  }
  if (name == "transpose" || name == "permute" || name == "t" || name == "movedim" || name == "moveaxis" ||
      name == "swapaxes" || name == "swapdims" || name == "numpy_T" || name == "mT" || name == "adjoint" ||
      name == "matrix_H") {
    return with([&](const Axes& source) { return permute(source, name); });
  }
  if (name == "flip" || name == "roll") {
    return with([&](const Axes& source) {
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
  if (name == "slice") return with([&](const Axes& source) { return slice(source); });
  if (name == "narrow") {
    return with([&](const Axes& source) {
      const auto place = dim_named("dim", source.size(), 0);
      if (!place) return unknown_fact();
      Axes axes = source;
      const AxisFact length = fact(named("length"));
      Axis& axis = axes[static_cast<size_t>(*place)];
      if (!length.number || *length.number != axis) axis = fresh(static_cast<size_t>(*place));
      return tensor(axes);
    });
  }
  if (name == "unfold" && node_->inputs().size() == 4) {
    return with([&](const Axes& source) {
      const auto place = dim_named("dimension", source.size(), 0);
      if (!place) return unknown_fact();
      Axes axes = source;
      axes[static_cast<size_t>(*place)] = fresh(static_cast<size_t>(*place));
      axes.push_back(number_axis(node_->input(2), axes.size()));
      return tensor_fact(std::move(axes));
    });
  }
  if (name == "select") {
    return with([&](const Axes& source) {
      const auto place = dim_named("dim", source.size(), 0);
      if (!place) return unknown_fact();
      Axes axes = source;
      axes.erase(axes.begin() + *place);
      return tensor_fact(std::move(axes));
    });
  }
  if (name == "expand" || name == "expand_as" || name == "broadcast_to") {
    return with([&](const Axes& source) { return expand(source); });
  }
  if (name == "repeat" || name == "tile") return with([&](const Axes& source) { return repeat(source); });
  if (name == "repeat_interleave") return with([&](const Axes& source) { return repeat_interleave(source); });
  if (name == "cat" || name == "concat" || name == "concatenate") return Results{concatenate()};
  if (name == "stack") return Results{stack()};
  if (name == "chunk" || name == "split" || name == "split_with_sizes" || name == "unbind" || name == "tensor_split" ||
      name == "unsafe_chunk" || name == "unsafe_split") {
    return with([&](const Axes& source) { return split(source, name); });
  }
  if (name == "pad" || name == "constant_pad_nd") return with([&](const Axes& source) { return pad(source); });
  if (name == "one_hot") {
    return with([&](const Axes& source) {
      Axes axes = source;
      axes.push_back(node_->inputs().size() > 1 ? number_axis(node_->input(1), axes.size()) : fresh(axes.size()));
      return tensor_fact(std::move(axes));
    });
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
