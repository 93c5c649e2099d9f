#include "hooks/tokens/token_layouts.h"

#include <algorithm>

#include "hooks/tokens/mask_meaning.h"

namespace moetap::hooks {
namespace jit = torch::jit;

namespace {

bool is_named(const AxisSymbols& symbols, const Factor& factor) {
  return !factor.is_constant() && symbols[factor.symbol].kind != AxisSymbol::Kind::kFresh;
}

// Takes the constant factors at the end of an axis off, if they are of that size.
bool take_constant(Axis& axis, int64_t size) {
  while (size > 1 && !axis.empty() && axis.back().is_constant() && size % axis.back().size == 0) {
    size /= axis.back().size;
    axis.pop_back();
  }
  return size == 1;
}

bool is_argument(const AxisSymbols& symbols, const Factor& factor) {
  return !factor.is_constant() && symbols[factor.symbol].kind == AxisSymbol::Kind::kArgument;
}

}  // namespace

TokenLayouts::TokenLayouts(const MethodGraph& graph, const ValueOrigins& origins) : flow_(graph, origins) {
  const auto& looked_up = flow_.looked_up();
  for (size_t i = 0; i < flow_.arguments().size(); ++i) {
    const auto argument = static_cast<int64_t>(i);
    if (flow_.rank(argument) != 2 || std::find(looked_up.begin(), looked_up.end(), argument) != looked_up.end())
      continue;
    masks_.push_back({argument, MaskDims::kUnknown, mask_meaning(graph, origins, flow_.arguments()[i])});
  }
}

bool TokenLayouts::is_square(int64_t argument) const {
  const int first = flow_.symbols().class_of_argument(argument, 0);
  return flow_.rank(argument) == 2 && first >= 0 && first == flow_.symbols().class_of_argument(argument, 1);
}

std::vector<ArgumentDim> TokenLayouts::arguments_of(int symbol) const {
  const AxisSymbols& symbols = flow_.symbols();
  std::vector<ArgumentDim> dims;
  for (int other = 0; other < symbols.count(); ++other) {
    const AxisSymbol& found = symbols[other];
    if (found.kind != AxisSymbol::Kind::kArgument || symbols.class_of(other) != symbols.class_of(symbol)) continue;
    dims.push_back({found.argument, found.dim, flow_.rank(found.argument)});
  }
  // The one that the values came from first.
  const AxisSymbol& own = symbols[symbol];
  std::stable_partition(dims.begin(), dims.end(), [&](const ArgumentDim& dim) {
    return own.kind == AxisSymbol::Kind::kArgument && dim.argument == own.argument && dim.dim == own.dim;
  });
  return dims;
}

TokenDim TokenLayouts::part_dim(const Axis& part) const {
  TokenDim dim;
  if (const auto size = constant_size(part)) {
    dim.size = *size;
  } else if (part.size() == 1 && is_argument(flow_.symbols(), part[0])) {
    dim.arguments = arguments_of(part[0].symbol);
  }
  return dim;
}

TokenDim TokenLayouts::token_dim(const Factor& factor) const {
  TokenDim dim;
  if (factor.is_constant()) {
    dim.size = factor.size;
    return dim;
  }
  if (!is_named(flow_.symbols(), factor)) return dim;
  dim.arguments = arguments_of(factor.symbol);
  for (const Axis& part : flow_.symbols()[factor.symbol].parts) dim.parts.push_back(part_dim(part));
  return dim;
}

bool TokenLayouts::is_first_dim(int class_id) const {
  for (size_t i = 0; i < flow_.arguments().size(); ++i) {
    const auto argument = static_cast<int64_t>(i);
    if (!is_square(argument) && flow_.symbols().class_of_argument(argument, 0) == class_id) return true;
  }
  return false;
}

// The batch is the first dimension of the arguments, unless attention sums over it and not over another: then the
// arguments have the sequence first.
std::optional<int> TokenLayouts::batch_among(const std::vector<int>& classes) const {
  const auto mixed = [&](int class_id) { return flow_.symbols().is_mixed(class_id); };
  std::vector<int> first, unmixed;
  for (const int class_id : classes) {
    if (is_first_dim(class_id)) first.push_back(class_id);
    if (!mixed(class_id)) unmixed.push_back(class_id);
  }
  if (first.size() > 1) {
    std::vector<int> unmixed_first;
    std::copy_if(first.begin(), first.end(), std::back_inserter(unmixed_first), [&](int one) { return !mixed(one); });
    if (unmixed_first.size() == 1) return unmixed_first[0];
    // The one that comes first among the arguments.
    for (size_t i = 0; i < flow_.arguments().size(); ++i) {
      const int own = flow_.symbols().class_of_argument(static_cast<int64_t>(i), 0);
      if (std::find(first.begin(), first.end(), own) != first.end()) return own;
    }
  }
  if (first.empty()) {
    // What is left of arguments whose first dimension is the sequence: it was pooled away.
    if (classes.size() != 1 || mixed(classes[0])) return std::nullopt;
    for (size_t i = 0; i < flow_.arguments().size(); ++i) {
      const auto argument = static_cast<int64_t>(i);
      const int sequence = flow_.symbols().class_of_argument(argument, 0);
      if (flow_.symbols().class_of_argument(argument, 1) == classes[0] && sequence >= 0 && mixed(sequence)) {
        return classes[0];
      }
    }
    return std::nullopt;
  }
  if (mixed(first[0]) && unmixed.size() == 1) return unmixed[0];
  return first[0];
}

MaskDims TokenLayouts::mask_dims(int64_t argument, int batch, const Factor* sequence) const {
  const AxisSymbols& symbols = flow_.symbols();
  const int first = symbols.class_of_argument(argument, 0), second = symbols.class_of_argument(argument, 1);
  if (first < 0 || second < 0 || sequence == nullptr) return MaskDims::kUnknown;
  if (first == second) return MaskDims::kOther;
  const auto alone = [&](int64_t dim) {
    const int own = symbols.class_of_argument(argument, dim);
    for (int other = 0; other < symbols.count(); ++other) {
      const AxisSymbol& symbol = symbols[other];
      const bool itself =
          symbol.kind == AxisSymbol::Kind::kArgument && symbol.argument == argument && symbol.dim == dim;
      if (!itself && symbols.class_of(other) == own) return false;
    }
    return true;
  };
  // The sequence, a part of it (the text behind an image), or a cache with the sequence at its end.
  const auto runs_along_sequence = [&](int class_id) {
    if (class_id == symbols.class_of(sequence->symbol)) return true;
    for (const Axis& part : symbols[sequence->symbol].parts) {
      if (part.size() == 1 && is_argument(symbols, part[0]) && symbols.class_of(part[0].symbol) == class_id)
        return true;
    }
    return symbols.ends_with(class_id, *sequence);
  };
  const bool batch_first = first == batch, batch_second = second == batch;
  if ((batch_first || alone(0)) && symbols.buffer_of(second) != nullptr) return MaskDims::kBuffer;
  // Keys behind those of the tokens, or places of a buffer: its columns are not the tokens, nor does it end with them.
  const bool with_keys_behind = second != symbols.class_of(sequence->symbol) && symbols.begins_with(second, *sequence);
  if ((batch_first || alone(0)) && with_keys_behind) return MaskDims::kBuffer;
  const bool sequence_first = runs_along_sequence(first), sequence_second = runs_along_sequence(second);
  if ((batch_first || alone(0)) && sequence_second) return MaskDims::kTokens;
  if (batch_first && alone(1)) return MaskDims::kUnknown;
  if ((batch_second || alone(1)) && sequence_first && !batch_first) {
    return batch_second ? MaskDims::kTransposed : MaskDims::kUnknown;
  }
  return alone(0) && alone(1) ? MaskDims::kUnknown : MaskDims::kOther;
}

TokenMask TokenLayouts::placed(TokenMask mask, int batch, const Factor* sequence) const {
  mask.dims = mask_dims(mask.argument, batch, sequence);
  if (mask.dims != MaskDims::kBuffer) return mask;
  const AxisSymbol* buffer = flow_.symbols().buffer_of(flow_.symbols().class_of_argument(mask.argument, 1));
  mask.places = buffer == nullptr ? -1 : buffer->places;
  return mask;
}

TokenLayout TokenLayouts::of(const jit::Value* tensor, std::optional<int64_t> without) const {
  return of(tensor, without ? std::vector<LeftOutDim>{{*without}} : std::vector<LeftOutDim>());
}

TokenLayout TokenLayouts::of(const jit::Value* tensor, const std::vector<LeftOutDim>& without) const {
  const AxisSymbols& symbols = flow_.symbols();
  TokenLayout layout;
  const AxisFact& fact = flow_.of(tensor);
  if (!fact.axes) return layout;
  const auto rank = static_cast<int64_t>(fact.axes->size());
  std::vector<Factor> factors;
  for (int64_t i = 0; i < rank; ++i) {
    Axis axis = (*fact.axes)[static_cast<size_t>(i)];
    bool kept = true;
    for (const LeftOutDim& out : without) {
      if ((out.dim < 0 ? out.dim + rank : out.dim) != i) continue;
      kept = out.size != 0 && take_constant(axis, out.size);
      if (out.size != 0 && !kept) return layout;
    }
    if (kept) factors.insert(factors.end(), axis.begin(), axis.end());
  }
  const auto packed = std::find_if(factors.begin(), factors.end(), [&](const Factor& factor) {
    return !factor.is_constant() && symbols[factor.symbol].kind == AxisSymbol::Kind::kPacked;
  });
  if (packed != factors.end()) {
    const AxisSymbol& left = symbols[packed->symbol];
    const bool twice = std::any_of(left.whole.begin(), left.whole.end(), [&](const Factor& factor) {
      return !factor.is_constant() && symbols[factor.symbol].kind == AxisSymbol::Kind::kPacked;
    });
    if (factors.size() != 1 || twice) return {};
    layout.packed = left.packing;
    factors = left.whole;
  }
  std::vector<int> classes;
  for (const Factor& factor : factors) {
    layout.dims.push_back(token_dim(factor));
    if (!is_argument(symbols, factor)) continue;
    const int own = symbols.class_of(factor.symbol);
    if (std::find(classes.begin(), classes.end(), own) != classes.end()) return {};  // pairs of tokens
    classes.push_back(own);
  }
  const auto batch = batch_among(classes);
  const bool turned = std::any_of(factors.begin(), factors.end(), [&](const Factor& factor) {
    return !factor.is_constant() && symbols[factor.symbol].turned;
  });
  if (!batch && !turned) return {};
  if (!batch) {  // samples in another order: sizes would tell the wrong ones
    layout.known = true;
    return layout;
  }
  std::vector<size_t> others;
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!is_named(symbols, factors[i])) continue;
    if (symbols.class_of(factors[i].symbol) == *batch) {
      layout.dims[i].role = TokenDimRole::kBatch;
    } else {
      others.push_back(i);
    }
  }
  if (others.size() > 1) {
    std::vector<size_t> mixed;
    std::copy_if(others.begin(), others.end(), std::back_inserter(mixed),
                 [&](size_t i) { return symbols.is_mixed(symbols.class_of(factors[i].symbol)); });
    others = mixed.size() == 1 ? mixed : std::vector<size_t>();
  }
  // Beside something that no argument has, a column does not tell which token it is.
  const bool beside_unknown = std::any_of(layout.dims.begin(), layout.dims.end(), [](const TokenDim& dim) {
    return dim.arguments.empty() && dim.parts.empty() && dim.size == 0;
  });
  if (beside_unknown) others.clear();
  const Factor* sequence = others.empty() ? nullptr : &factors[others[0]];
  if (sequence != nullptr) layout.dims[others[0]].role = TokenDimRole::kSequence;
  layout.known = true;

  for (const int64_t argument : flow_.looked_up()) {
    if (sequence == nullptr || flow_.rank(argument) != 2) continue;
    const MaskDims dims = mask_dims(argument, *batch, sequence);
    if (dims == MaskDims::kTokens || dims == MaskDims::kTransposed) layout.ids.push_back(argument);
  }
  for (const TokenMask& mask : masks_) layout.masks.push_back(placed(mask, *batch, sequence));
  return layout;
}

}  // namespace moetap::hooks
