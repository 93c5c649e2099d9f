// Operators that cut parts off along a dimension.

#include <algorithm>
#include <limits>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"

namespace moetap::hooks {
namespace jit = torch::jit;

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

AxisFact AxisTransfer::split(const Axes& source, const std::string& name) {
  const auto along = dim_named("dim", source.size(), 0);
  if (!along) return unknown_fact();
  const auto place = static_cast<size_t>(*along);
  Axes axes = source;
  if (name == "unbind") {
    axes.erase(axes.begin() + *along);
    const AxisFact each = tensor_fact(axes, fact(node_->input(0)).rank_of);
    if (const auto size = constant_size(source[place]); size && *size <= 64) {
      return list_fact(std::vector<AxisFact>(static_cast<size_t>(*size), each));
    }
    return list_of(each);
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

std::optional<AxisTransfer::Results> AxisTransfer::parts(const std::string& name) {
  if (name == "slice") return with_input([&](const Axes& source) { return slice(source); });
  if (name == "narrow") {
    return with_input([&](const Axes& source) {
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
    return with_input([&](const Axes& source) {
      const auto place = dim_named("dimension", source.size(), 0);
      if (!place) return unknown_fact();
      Axes axes = source;
      axes[static_cast<size_t>(*place)] = fresh(static_cast<size_t>(*place));
      axes.push_back(number_axis(node_->input(2), axes.size()));
      return tensor_fact(std::move(axes));
    });
  }
  if (name == "select") {
    return with_input([&](const Axes& source) {
      const auto place = dim_named("dim", source.size(), 0);
      if (!place) return unknown_fact();
      Axes axes = source;
      axes.erase(axes.begin() + *place);
      return tensor_fact(std::move(axes), fact(node_->input(0)).rank_of);
    });
  }
  if (name == "chunk" || name == "split" || name == "split_with_sizes" || name == "unbind" || name == "tensor_split" ||
      name == "unsafe_chunk" || name == "unsafe_split") {
    return with_input([&](const Axes& source) { return split(source, name); });
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
