#include "hooks/tokens/axis_transfer.h"

#include <algorithm>
#include <set>

#include "hooks/graph/op_traits.h"

namespace moetap::hooks {
namespace jit = torch::jit;

const jit::Value* AxisTransfer::named(const char* name) const {
  const c10::FunctionSchema* schema = node_->maybeSchema();
  if (schema == nullptr) return nullptr;
  const auto place = schema->argumentIndexWithName(name);
  if (!place || static_cast<size_t>(*place) >= node_->inputs().size()) return nullptr;
  return node_->input(static_cast<size_t>(*place));
}

bool AxisTransfer::is_none(const jit::Value* value) const {
  if (value == nullptr || value->type()->kind() == c10::TypeKind::NoneType) return true;
  const auto constant = flow_.graph_.constant(value);
  return constant && constant->isNone();
}

AxisFact AxisTransfer::fact(const jit::Value* value) const {
  if (value == nullptr) return unknown_fact();
  if (const AxisFact& found = flow_.of(value); found.reached) return found;
  return unknown_fact();
}

AxisTransfer::MaybeAxes AxisTransfer::input_axes(size_t i) const {
  return i < node_->inputs().size() ? axes(node_->input(i)) : std::nullopt;
}

std::optional<int64_t> AxisTransfer::constant(const jit::Value* value) const {
  const AxisFact found = fact(value);
  return found.number ? constant_size(*found.number) : std::nullopt;
}

std::optional<int64_t> AxisTransfer::dim(const jit::Value* value, size_t rank) const {
  const auto found = value == nullptr ? std::nullopt : flow_.graph_.constant(value);
  if (!found || !found->isInt()) return std::nullopt;
  const auto size = static_cast<int64_t>(rank);
  const int64_t from_start = found->toInt() < 0 ? found->toInt() + size : found->toInt();
  return from_start < 0 || from_start >= size ? std::nullopt : std::optional<int64_t>(from_start);
}

std::optional<int64_t> AxisTransfer::dim_named(const char* name, size_t rank, int64_t otherwise) const {
  const jit::Value* value = named(name);
  if (value == nullptr || is_none(value)) {
    const int64_t from_start = otherwise < 0 ? otherwise + static_cast<int64_t>(rank) : otherwise;
    return from_start < 0 ? std::nullopt : std::optional<int64_t>(from_start);
  }
  return dim(value, rank);
}

std::optional<std::vector<int64_t>> AxisTransfer::dims_named(const char* name, size_t rank) const {
  const jit::Value* value = named(name);
  if (value == nullptr) return std::nullopt;
  std::vector<int64_t> dims;
  const auto add = [&](int64_t from) {
    const auto size = static_cast<int64_t>(rank);
    const int64_t place = from < 0 ? from + size : from;
    if (place >= 0 && place < size) dims.push_back(place);
    return place >= 0 && place < size;
  };
  const auto found = flow_.graph_.constant_ints(value);
  if (!found) return std::nullopt;
  for (const auto& one : *found) {
    if (!one || !add(*one)) return std::nullopt;
  }
  return dims;
}

bool AxisTransfer::flag(const char* name) const {
  const jit::Value* value = named(name);
  const auto found = value == nullptr ? std::nullopt : flow_.graph_.constant(value);
  return found && found->isBool() && found->toBool();
}

Axis AxisTransfer::number_axis(const jit::Value* value, size_t place) const {
  const AxisFact found = fact(value);
  return found.number ? number_axis(*found.number, place) : fresh(place);
}

Axis AxisTransfer::number_axis(const Axis& number, size_t place) const {
  if (const auto size = constant_size(number)) return *size > 0 ? constant_axis(*size) : fresh(place);
  Axis axis = number;
  std::erase_if(axis, [](const Factor& factor) { return factor.is_constant() && factor.size == 1; });
  return axis;
}

std::vector<AxisFact> AxisTransfer::list_elements(const jit::Value* list) const {
  return fact(list).elements.value_or(std::vector<AxisFact>());
}

std::vector<ViewSize> AxisTransfer::view_sizes(const jit::Value* list) const {
  std::vector<ViewSize> sizes;
  for (const AxisFact& element : list_elements(list)) {
    ViewSize size;
    if (element.number) {
      size.kind = constant_size(*element.number) == -1 ? ViewSize::Kind::kRest : ViewSize::Kind::kKnown;
      if (size.kind == ViewSize::Kind::kKnown) size.size = *element.number;
    }
    sizes.push_back(std::move(size));
  }
  return sizes;
}

AxisFact AxisTransfer::tensor(MaybeAxes axes) const {
  if (!axes) return unknown_fact();
  // The rank that decides the result's is that of the first operand that has one.
  int64_t rank_of = -1;
  for (const jit::Value* input : node_->inputs()) {
    const AxisFact& operand = flow_.of(input);
    if (operand.axes && operand.rank_of >= 0) {
      rank_of = operand.rank_of;
      break;
    }
  }
  return tensor_fact(std::move(*axes), rank_of);
}

AxisTransfer::Axes AxisTransfer::broadcast(const Axes& a, const Axes& b) const {
  const size_t rank = std::max(a.size(), b.size());
  Axes result(rank);
  for (size_t i = 0; i < rank; ++i) {  // from the last dimension
    const Axis first = i < a.size() ? a[a.size() - 1 - i] : Axis();
    const Axis second = i < b.size() ? b[b.size() - 1 - i] : Axis();
    result[rank - 1 - i] = symbols_.meet(first, second);
  }
  return result;
}

// What was taken for ids or a mask [B, S] may be one number a sample: `logits + embedding(task)[:, None]`. A dimension
// of size 1 is put in to bring it to as many dimensions as the other operand has, so if it has more, there is one less
// in the argument.
void AxisTransfer::agree_on_ranks() {
  std::vector<const jit::Value*> operands;
  for (const jit::Value* input : node_->inputs()) {
    if (is_tensor(input) && axes(input)) operands.push_back(input);
  }
  for (const jit::Value* wide : operands) {
    const AxisFact of_wide = fact(wide);
    const auto made_to_fit = std::find(of_wide.axes->begin(), of_wide.axes->end(), Axis());
    if (made_to_fit == of_wide.axes->end() || !flow_.may_be_one_a_sample(of_wide.rank_of)) continue;
    for (const jit::Value* other : operands) {
      const AxisFact of_other = fact(other);
      const size_t rank = of_other.axes->size();
      if (rank < 2 || rank >= of_wide.axes->size() || of_other.rank_of == of_wide.rank_of) continue;
      flow_.require_rank(wide, static_cast<int64_t>(rank), /*at_least=*/false);
    }
  }
}

// Operators whose result has the shape of their operands. Where one operand is not known, the result is taken to have
// the shape of a hidden state beside it: a residual sum.
AxisFact AxisTransfer::elementwise() {
  MaybeAxes known;
  bool is_stream = false, all_known = true;
  agree_on_ranks();
  if (is_in_place(*node_)) return fact(node_->input(0));
  for (const jit::Value* input : node_->inputs()) {
    if (!is_tensor(input)) continue;
    const MaybeAxes operand = axes(input);
    if (!operand) {
      all_known = false;
      continue;
    }
    is_stream = is_stream || (flow_.origins_.is_activation(input) && operand->size() >= 2);
    known = known ? broadcast(*known, *operand) : operand;
  }
  return known && (all_known || is_stream) ? tensor(known) : unknown_fact();
}

AxisFact AxisTransfer::fresh_tensor(const std::string& name) {
  if (name.ends_with("_like")) return tensor(input_axes(0));
  if (name == "arange") {
    // (end), (start, end) or (start, end, step): only the first runs along what its end was asked of.
    const jit::Value* end = named("end");
    const jit::Value* start = named("start");
    const bool from_zero = start == nullptr || constant(start) == 0;
    const bool by_one = named("step") == nullptr || constant(named("step")) == 1;
    return tensor_fact({end != nullptr && from_zero && by_one ? number_axis(end, 0) : fresh(0)});
  }
  const jit::Value* size = named("size");
  if (size == nullptr) return unknown_fact();
  if (!fact(size).elements) return unknown_fact();
  Axes axes;
  for (const AxisFact& element : list_elements(size)) {
    axes.push_back(element.number ? number_axis(*element.number, axes.size()) : fresh(axes.size()));
  }
  return tensor_fact(std::move(axes));
}

AxisTransfer::Results AxisTransfer::results() {
  if (node_->outputs().empty()) return {};
  const std::string name = base_name(*node_);
  if (auto found = values(name)) return *found;
  const std::string space = node_->kind().ns().toUnqualString();
  if (space != "aten" && space != "prim" && space != "quantized" && space != "mkldnn") return {};
  if (auto found = views(name)) return *found;
  if (auto found = parts(name)) return *found;
  if (auto found = joins(name)) return *found;
  if (auto found = products(name)) return *found;
  if (auto found = places(name)) return *found;
  if (auto found = picks(name)) return *found;
  switch (op_kind(*node_)) {
    case OpKind::kCopy:
    case OpKind::kMixOther:
    case OpKind::kCumulate:
    case OpKind::kScatter:
    case OpKind::kIndexWrite: {
      const AxisFact first = fact(node_->input(0));
      return {first.axes || first.number ? first : unknown_fact()};
    }
    case OpKind::kElementwise:
    case OpKind::kMultiply:
    case OpKind::kScoring:
    case OpKind::kCompare:
    case OpKind::kLogical:
    case OpKind::kWhere:
    case OpKind::kMaskedFill:
      return {elementwise()};
    case OpKind::kFresh:
      return {fresh_tensor(name)};
    default:
      break;
  }
  static const std::set<std::string> same_shape = {
      "tril",       "triu",           "leaky_relu",    "selu",
      "celu",       "mish",           "hardswish",     "prelu",
      "glu_",       "logit",          "sin",           "cos",
      "tan",        "sign",           "sgn",           "trunc",
      "frac",       "erfc",           "rrelu",         "logaddexp2",
      "polar",      "atan2",          "bernoulli",     "uniform",
      "zero",       "requires_grad",  "instance_norm", "local_response_norm",
      "renorm",     "constant_pad_0", "nan_to_num",    "softshrink",
      "hardshrink", "relu",           "log10",         "log2",
      "ones_like",  "digamma",        "lgamma",        "sinh",
      "cosh",       "asin",           "acos",          "atan"};
  if (same_shape.count(name)) return {elementwise()};
  return {};
}

}  // namespace moetap::hooks
