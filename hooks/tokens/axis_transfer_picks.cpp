// Operators that reduce dimensions, and those that pick or pool along them.

#include <algorithm>
#include <numeric>
#include <set>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"

namespace moetap::hooks {
namespace jit = torch::jit;

AxisFact AxisTransfer::reduce(const Axes& source, const std::string& name) {
  const jit::Value* which = named("dim");
  std::vector<int64_t> dims(source.size());
  std::iota(dims.begin(), dims.end(), 0);
  if (!is_none(which)) {
    const auto found = dims_named("dim", source.size());
    if (!found) return unknown_fact();
    if (!found->empty()) dims = *found;
  } else if (which == nullptr && node_->outputs().size() == 2 && name == "mode") {
    dims = {static_cast<int64_t>(source.size()) - 1};
  }
  const bool keep = flag("keepdim");
  Axes axes;
  for (size_t i = 0; i < source.size(); ++i) {
    const bool gone = std::find(dims.begin(), dims.end(), static_cast<int64_t>(i)) != dims.end();
    if (!gone) axes.push_back(source[i]);
    if (gone && keep) axes.push_back(Axis());
  }
  return tensor_fact(std::move(axes));
}

std::optional<AxisTransfer::Results> AxisTransfer::picks(const std::string& name) {
  const MaybeAxes source = input_axes(0);
  const OpKind kind = op_kind(*node_);
  const auto along = [&](const char* dim, int64_t otherwise, auto&& change) -> AxisFact {
    if (!source) return unknown_fact();
    const auto place = dim_named(dim, source->size(), otherwise);
    if (!place || static_cast<size_t>(*place) >= source->size()) return unknown_fact();
    Axes axes = *source;
    change(axes, static_cast<size_t>(*place));
    return tensor(axes);
  };
  if (name == "topk" || name == "sort" || name == "argsort" || name == "msort") {
    const AxisFact result = along("dim", name == "msort" ? 0 : -1, [&](Axes& axes, size_t place) {
      const auto size = constant_size(axes[place]);
      axes[place] = name == "topk" ? number_axis(node_->input(1), place) : size ? constant_axis(*size) : fresh(place);
      // How many are picked may be asked of a dimension; which they are is another matter.
      if (!constant_size(axes[place])) axes[place] = fresh(place);
    });
    return Results(node_->outputs().size(), result);
  }
  if (name == "kthvalue" || name == "mode" || name == "median" || kind == OpKind::kReduce || kind == OpKind::kPick ||
      name == "var_mean" || name == "std_mean" || name == "aminmax") {
    if (name == "bincount" || name == "histc") return Results{};
    const bool is_two_operands = name != "kthvalue" && node_->inputs().size() == 2 && is_tensor(node_->input(1));
    if (is_two_operands) return Results{elementwise()};
    if (!source) return Results{};
    if (name == "kthvalue") {
      const AxisFact result = along("dim", -1, [&](Axes& axes, size_t place) {
        if (flag("keepdim")) {
          axes[place] = Axis();
        } else {
          axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(place));
        }
      });
      return Results(node_->outputs().size(), result);
    }
    return Results(node_->outputs().size(), reduce(*source, name));
  }
  static const std::set<std::string> pools = {"adaptive_avg_pool1d", "adaptive_avg_pool2d",
                                              "adaptive_max_pool2d", "avg_pool1d",
                                              "avg_pool2d",          "max_pool1d",
                                              "max_pool2d",          "upsample_nearest2d",
                                              "upsample_bilinear2d", "max_pool2d_with_indices",
                                              "upsample_bicubic2d"};
  if (pools.count(name)) {
    if (!source) return Results{};
    const size_t spatial = name.find("1d") != std::string::npos ? 1 : 2;
    if (source->size() < spatial) return Results{};
    Axes axes = *source;
    const std::vector<AxisFact> sizes = list_elements(named("output_size"));
    for (size_t i = 0; i < spatial; ++i) {
      const size_t place = axes.size() - spatial + i;
      const bool adaptive = name.rfind("adaptive", 0) == 0 && i < sizes.size() && sizes[i].number;
      axes[place] = adaptive ? number_axis(*sizes[i].number, place) : fresh(place);
    }
    return Results(node_->outputs().size(), tensor(axes));
  }
  if (name == "multinomial") {
    return Results{
        along("dim", -1, [&](Axes& axes, size_t place) { axes[place] = number_axis(node_->input(1), place); })};
  }
  return std::nullopt;
}

}  // namespace moetap::hooks
