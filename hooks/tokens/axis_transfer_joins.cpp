// Operators that make a dimension longer: repeated, put behind each other, padded.

#include <algorithm>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"

namespace moetap::hooks {
namespace jit = torch::jit;

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

std::optional<AxisTransfer::Results> AxisTransfer::joins(const std::string& name) {
  if (name == "expand" || name == "expand_as" || name == "broadcast_to") {
    return with_input([&](const Axes& source) { return expand(source); });
  }
  if (name == "repeat" || name == "tile") return with_input([&](const Axes& source) { return repeat(source); });
  if (name == "repeat_interleave") return with_input([&](const Axes& source) { return repeat_interleave(source); });
  if (name == "cat" || name == "concat" || name == "concatenate") return Results{concatenate()};
  if (name == "stack") return Results{stack()};
  if (name == "pad" || name == "constant_pad_nd") return with_input([&](const Axes& source) { return pad(source); });
  if (name == "one_hot") {
    return with_input([&](const Axes& source) {
      Axes axes = source;
      axes.push_back(node_->inputs().size() > 1 ? number_axis(node_->input(1), axes.size()) : fresh(axes.size()));
      return tensor_fact(std::move(axes));
    });
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
