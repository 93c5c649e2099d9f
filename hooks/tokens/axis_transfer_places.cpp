// Operators that choose places along dimensions, or write to them: by indices, by masks.

#include <algorithm>
#include <limits>

#include "hooks/graph/op_traits.h"
#include "hooks/tokens/axis_transfer.h"
#include "hooks/tokens/token_packing.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

constexpr int64_t kNoDim = std::numeric_limits<int64_t>::min();

bool has_packed(const Axis& axis, const AxisSymbols& symbols) {
  return std::any_of(axis.begin(), axis.end(), [&](const Factor& factor) {
    return !factor.is_constant() && symbols[factor.symbol].kind == AxisSymbol::Kind::kPacked;
  });
}

bool has_symbol(const Axis& axis) {
  return std::any_of(axis.begin(), axis.end(), [](const Factor& factor) { return !factor.is_constant(); });
}

Axis joined(const std::vector<Axis>& axes) {
  Axis all;
  for (const Axis& axis : axes) all.insert(all.end(), axis.begin(), axis.end());
  return all;
}

}  // namespace

// What a bool mask leaves of the dimensions that it runs along. See Note [Packed tokens].
Axis AxisTransfer::left_by(const jit::Value* mask, const Axes& along, size_t place) {
  const auto packing = packing_of(mask, flow_, flow_.graph_);
  const MaybeAxes own = axes(mask);
  if (!packing || !own || own->size() != along.size()) return fresh(place);
  Axes whole;
  for (size_t i = 0; i < along.size(); ++i) whole.push_back(symbols_.meet(along[i], (*own)[i]));
  return symbols_.packed(node_->output(0), joined(whole), *packing);
}

// The same where the dimensions are indexed by the places at which a mask is set, a tensor for each of them. Empty: the
// indices are something else.
std::optional<Axis> AxisTransfer::left_by_places(const std::vector<const jit::Value*>& indices, const Axes& along) {
  const jit::Node* nonzero = nullptr;
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto found = found_places(indices[i], flow_.graph_);
    if (!found || found->column != static_cast<int64_t>(i) || (nonzero != nullptr && found->nonzero != nonzero)) {
      return std::nullopt;
    }
    nonzero = found->nonzero;
  }
  if (nonzero == nullptr) return std::nullopt;
  return left_by(nonzero->input(0), along, 0);
}

// `x[i, j]`, with `:` where an index is none.
AxisFact AxisTransfer::index() {
  const MaybeAxes source = input_axes(0);
  const jit::Node* list = node_->input(1)->node();
  if (!source || list->kind() != jit::prim::ListConstruct || list->inputs().size() > source->size()) {
    return unknown_fact();
  }
  std::vector<size_t> dims;  // that have an index
  std::vector<const jit::Value*> indices;
  for (size_t i = 0; i < list->inputs().size(); ++i) {
    if (is_none(list->inputs()[i])) continue;
    dims.push_back(i);
    indices.push_back(list->inputs()[i]);
  }
  if (dims.empty()) return tensor(source);
  const size_t first = dims.front();
  const bool together = dims.back() - first + 1 == dims.size();
  Axes chosen;
  int64_t rank_of = -1;
  for (const jit::Value* place : indices) {
    const MaybeAxes own = axes(place);
    // A mask chooses places, and an argument may be one; but a table is looked up by ids.
    const int64_t argument = flow_.argument_behind(place);
    const bool is_lookup = argument >= 0 && flow_.origins_.is_parameter(node_->input(0));
    if (is_lookup && source->size() <= 2) flow_.look_up(argument);  // in a bank of matrices they are experts' ids
    const bool is_mask = holds_bools(place, flow_.graph_);
    if (!own || is_mask || (argument >= 0 && !is_lookup)) {
      if (indices.size() > 1 || !own || !is_mask || own->empty() || first + own->size() > source->size()) {
        return unknown_fact();
      }
      const auto begin = source->begin() + static_cast<std::ptrdiff_t>(first);
      const auto end = begin + static_cast<std::ptrdiff_t>(own->size());
      Axes rest(source->begin(), begin);
      rest.push_back(left_by(place, Axes(begin, end), 0));
      rest.insert(rest.end(), end, source->end());
      return tensor_fact(std::move(rest));
    }
    chosen = broadcast(chosen, *own);
    // What a table of the model holds has as many dimensions as it always has; the rest are those of the index.
    const bool is_table = is_lookup || flow_.origins_.is_parameter(node_->input(0));
    if (is_table && indices.size() == 1) rank_of = fact(place).rank_of;
  }
  Axes along;
  for (const size_t dim : dims) along.push_back((*source)[dim]);
  if (auto left = together ? left_by_places(indices, along) : std::nullopt) {
    chosen = {std::move(*left)};
  } else if (has_symbol(joined(along))) {
    // Other tokens than those that the mask left, and as many.
    for (size_t i = 0; i < chosen.size(); ++i) {
      if (has_packed(chosen[i], symbols_)) chosen[i] = fresh(i);
    }
  }
  Axes result;
  if (!together) result = chosen;
  for (size_t i = 0; i < source->size(); ++i) {
    if (together && i == first) result.insert(result.end(), chosen.begin(), chosen.end());
    if (std::find(dims.begin(), dims.end(), i) == dims.end()) result.push_back((*source)[i]);
  }
  return tensor_fact(std::move(result), rank_of);
}

AxisFact AxisTransfer::index_select(const Axes& source) {
  const jit::Value* index = named("index");
  const auto along = dim_named("dim", source.size(), 0);
  if (!along) return unknown_fact();
  const int64_t argument = flow_.argument_behind(index);
  if (argument >= 0 && flow_.origins_.is_parameter(node_->input(0))) flow_.look_up(argument);
  const auto place = static_cast<size_t>(*along);
  const MaybeAxes chosen = axes(index);
  Axes result = source;
  if (auto left = left_by_places({index}, {source[place]})) {
    result[place] = std::move(*left);
  } else {
    const bool one = chosen && chosen->size() == 1;
    const bool other = one && has_packed((*chosen)[0], symbols_) && has_symbol(source[place]);
    result[place] = one && !other ? (*chosen)[0] : fresh(place);
  }
  return tensor(result);
}

AxisFact AxisTransfer::gather(const char* index_name) {
  const MaybeAxes source = input_axes(0);
  const jit::Value* index = named(index_name);
  const MaybeAxes chosen = index == nullptr ? std::nullopt : axes(index);
  const auto rank = chosen ? chosen->size() : source ? source->size() : 0;
  const auto along = dim_named("dim", rank, 0);
  if (!chosen) {
    if (!source || !along) return unknown_fact();
    Axes result = *source;
    result[static_cast<size_t>(*along)] = fresh(static_cast<size_t>(*along));
    return tensor(result);
  }
  Axes result = *chosen;
  if (along && has_packed(result[static_cast<size_t>(*along)], symbols_)) {
    Axis& axis = result[static_cast<size_t>(*along)];
    const bool same_rank = source && source->size() == rank;
    auto left = same_rank ? left_by_places({index}, {(*source)[static_cast<size_t>(*along)]}) : std::nullopt;
    axis = left ? std::move(*left) : fresh(static_cast<size_t>(*along));
  }
  return tensor_fact(std::move(result));
}

// Keys that are written into a buffer at the places of the forward's own tokens: a static cache. Others write what a
// part of the rows is made into, and leave the dimensions as they are.
AxisFact AxisTransfer::write_to_places() {
  AxisFact target = fact(node_->input(0));
  const std::string name = base_name(*node_);
  const jit::Value *written = nullptr, *index = nullptr, *dim_value = named("dim");
  int64_t along = dim_value == nullptr ? kNoDim : flow_.graph_.constant_int(dim_value).value_or(kNoDim);
  if (name == "index_copy") {
    written = named("source");
    index = named("index");
  } else if (name == "scatter") {
    written = named("src");
    index = named("index");
  } else if (name == "index_put" || name == "_index_put_impl") {
    written = named("values");
    const jit::Node* list = named("indices") == nullptr ? nullptr : named("indices")->node();
    if (list == nullptr || list->kind() != jit::prim::ListConstruct) return target;
    for (size_t i = 0; i < list->inputs().size(); ++i) {
      if (is_none(list->inputs()[i])) continue;
      along = static_cast<int64_t>(i);
      index = list->inputs()[i];
    }
  } else if (name == "copy") {
    const MaybeAxes source = input_axes(1);
    if (source && flow_.is_cache(node_->input(0)) && flow_.origins_.is_activation(node_->input(1))) {
      flow_.require_rank(node_->input(0), static_cast<int64_t>(source->size()), false);
    }
    return target;
  }
  if (written == nullptr || index == nullptr || along == kNoDim || !flow_.is_cache(node_->input(0)) ||
      !flow_.origins_.is_activation(written) || holds_bools(index, flow_.graph_)) {
    return target;
  }
  const MaybeAxes source = axes(written);
  if (source) flow_.require_rank(node_->input(0), static_cast<int64_t>(source->size()), false);
  // Of a list's element nothing is known; what is written into it has as many dimensions.
  MaybeAxes buffer = target.axes ? target.axes : source;
  if (!buffer) return target;
  const auto rank = static_cast<int64_t>(buffer->size());
  const int64_t place = along < 0 ? along + rank : along;
  if (place < 0 || place >= rank) return target;
  const int64_t places = argument_of_numbers(index, flow_, flow_.graph_);
  (*buffer)[static_cast<size_t>(place)] = symbols_.buffer(node_->output(0), place, places);
  return tensor_fact(std::move(*buffer), target.rank_of);
}

std::optional<AxisTransfer::Results> AxisTransfer::places(const std::string& name) {
  const MaybeAxes source = input_axes(0);
  const OpKind kind = op_kind(*node_);
  if (name == "gather") return Results{gather("index")};
  if (name == "take_along_dim") return Results{gather("indices")};
  if (name == "index_select") return Results{source ? index_select(*source) : unknown_fact()};
  if (name == "index" || name == "_unsafe_index") return Results{index()};
  if (name == "nonzero" || name == "argwhere") {
    if (!source) return Results{unknown_fact()};
    return Results{
        tensor_fact({left_by(node_->input(0), *source, 0), constant_axis(static_cast<int64_t>(source->size()))})};
  }
  if (kind == OpKind::kNonzero) {  // `where(mask)`, `nonzero_numpy`: a list, one tensor a dimension
    const AxisFact places = tensor_fact({source ? left_by(node_->input(0), *source, 0) : fresh(0)});
    return Results{source ? list_fact(std::vector<AxisFact>(source->size(), places)) : list_of(places)};
  }
  if (name == "masked_select") {
    // A mask [B, S, 1] leaves tokens with all their features.
    const jit::Value* mask = named("mask");
    while (op_kind(*mask->node()) == OpKind::kRepeat) mask = mask->node()->input(0);
    MaybeAxes own = axes(mask);
    if (!source || !own || own->size() != source->size()) return Results{tensor_fact({fresh(0)})};
    size_t tokens = own->size();
    while (tokens > 0 && (*own)[tokens - 1].empty()) --tokens;
    if (tokens == own->size()) return Results{tensor_fact({left_by(mask, *source, 0)})};
    const auto packing = packing_of(mask, flow_, flow_.graph_);
    if (!packing) return Results{tensor_fact({fresh(0)})};
    Axes whole;
    for (size_t i = 0; i < tokens; ++i) whole.push_back(symbols_.meet((*source)[i], (*own)[i]));
    Axis left = symbols_.packed(node_->output(0), joined(whole), *packing);
    for (size_t i = tokens; i < source->size(); ++i) left.insert(left.end(), (*source)[i].begin(), (*source)[i].end());
    return Results{tensor_fact({std::move(left)})};
  }
  if (kind == OpKind::kIndexWrite || kind == OpKind::kScatter) return Results{write_to_places()};
  return std::nullopt;
}

}  // namespace moetap::hooks
