#include "plugin/verify/changed_arguments.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "plugin/capture/text_tokens.h"

namespace moetap::plugin {
namespace {

using hooks::TokenDimRole;
using Exchange = ChangedArguments::Exchange;

/// Each value of a tensor of integers replaced by the next larger one that occurs in it, the largest by the smallest.
at::Tensor next_that_occurs(const at::Tensor& ids) {
  const at::Tensor known = std::get<0>(at::_unique(ids, /*sorted=*/true));
  if (known.numel() == 1) return at::where(ids.eq(0), 1, 0).to(ids.scalar_type());
  return known.index_select(0, at::searchsorted(known, ids.reshape({-1})).add(1).remainder(known.numel()))
      .reshape(ids.sizes());
}

/// The tensor with all elements changed.
at::Tensor other_values(const at::Tensor& tensor, std::optional<int64_t> along, Exchange exchange) {
  if (!at::isFloatingType(tensor.scalar_type())) {
    return exchange == Exchange::kAmongAll || !along ? next_that_occurs(tensor) : tensor.roll(1, *along);
  }
  const at::Tensor finite = tensor.to(at::kDouble).masked_select(tensor.isfinite());
  const double scale = finite.numel() > 1 ? finite.std().item<double>() : 0;
  const at::Tensor noise =
      at::randn(tensor.sizes(), at::detail::createCPUGenerator(/*seed=*/1), at::TensorOptions().dtype(at::kDouble));
  return tensor.to(at::kDouble).add(noise.to(tensor.device()).mul(scale > 0 ? scale : 1)).to(tensor.scalar_type());
}

/// `which` [n] or [n, m], spread over a tensor whose dimensions `dims` it runs along.
at::Tensor spread(const at::Tensor& which, const std::vector<int64_t>& dims, const at::Tensor& like) {
  std::vector<int64_t> sizes(static_cast<size_t>(like.dim()), 1);
  for (const int64_t dim : dims) sizes[static_cast<size_t>(dim)] = like.size(dim);
  const at::Tensor ordered = dims.size() == 2 && dims[0] > dims[1] ? which.t() : which;
  return ordered.reshape(sizes).expand(like.sizes());
}

void set_dims(const hooks::TokenDim& dim, const std::vector<at::Tensor>& tensors, std::vector<ArgumentDims>& dims) {
  for (const hooks::ArgumentDim& own : dim.arguments) {
    const auto place = static_cast<size_t>(own.argument);
    if (own.argument < 0 || place >= tensors.size() || !tensors[place].defined()) continue;
    if (tensors[place].dim() != own.rank || own.dim < 0 || own.dim >= own.rank) continue;
    std::optional<int64_t>& known = dim.role == TokenDimRole::kBatch ? dims[place].batch : dims[place].sequence;
    if (!known) known = own.dim;
  }
}

}  // namespace

ChangedArguments::ChangedArguments(const ModelDescription& model, const std::string& method,
                                   const c10::FunctionSchema& schema, const Values& arguments)
    : arguments_(arguments) {
  const auto optional = c10::OptionalType::create(c10::TensorType::get());
  for (size_t i = 0; i < arguments.size() && i + 1 < schema.arguments().size(); ++i) {  // 0 is self
    if (!schema.arguments()[i + 1].type()->isSubtypeOf(*optional)) continue;
    places_.push_back(i);
    tensors_.push_back(arguments[i].isTensor() ? arguments[i].toTensor() : at::Tensor());
  }
  dims_.resize(tensors_.size());
  const auto names = model.method_arguments.find(method);
  if (names != model.method_arguments.end()) text_ = find_text_arguments(method, names->second, model.hooks, {});
  const auto at_place = [&](int64_t place) {
    return place >= 0 && static_cast<size_t>(place) < dims_.size() ? &dims_[static_cast<size_t>(place)] : nullptr;
  };
  for (const hooks::HookPoint& hook : model.hooks) {
    if (hook.method != method || !hook.tokens.known) continue;
    for (const hooks::TokenDim& dim : hook.tokens.dims) {
      if (dim.role != TokenDimRole::kOther) set_dims(dim, tensors_, dims_);
    }
    for (const int64_t ids : hook.tokens.ids) {
      if (ArgumentDims* known = at_place(ids)) known->is_ids = true;
    }
    for (const hooks::TokenMask& mask : hook.tokens.masks) {
      if (ArgumentDims* known = at_place(mask.argument)) known->is_mask = true;
    }
  }
  const auto set_text = [&](const std::optional<size_t>& ids, const std::optional<size_t>& mask, bool sequence_first) {
    if (mask && *mask < dims_.size()) dims_[*mask].is_mask = true;
    if (!ids || *ids >= dims_.size() || !tensors_[*ids].defined() || tensors_[*ids].dim() != 2) return;
    dims_[*ids].is_ids = true;
    if (!dims_[*ids].batch) dims_[*ids].batch = sequence_first ? 1 : 0;
    if (!dims_[*ids].sequence) dims_[*ids].sequence = sequence_first ? 0 : 1;
  };
  set_text(text_.ids, text_.mask, text_.reading.ids_sequence_first);
  set_text(text_.decoder_ids, text_.decoder_mask, text_.decoder_reading.ids_sequence_first);
}

std::optional<ChangedArguments::Values> ChangedArguments::changed(const at::Tensor& which,
                                                                  const std::vector<std::optional<int64_t>>& first,
                                                                  const std::vector<std::optional<int64_t>>& second,
                                                                  Exchange exchange) const {
  Values values = arguments_;
  bool any = false;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const at::Tensor& tensor = tensors_[i];
    if (!tensor.defined() || dims_[i].is_mask || !first[i] || (which.dim() == 2 && !second[i])) continue;
    const bool floating = at::isFloatingType(tensor.scalar_type());
    if (!floating && !(dims_[i].is_ids && at::isIntegralType(tensor.scalar_type(), /*includeBool=*/false))) continue;
    std::vector<int64_t> along = {*first[i]};
    if (which.dim() == 2) along.push_back(*second[i]);
    if (tensor.size(along[0]) != which.size(0) || (which.dim() == 2 && tensor.size(along[1]) != which.size(1))) {
      continue;
    }
    const at::Tensor here = spread(which, along, tensor).to(tensor.device());
    const at::Tensor other = at::where(here, other_values(tensor, along.back(), exchange), tensor);
    any = any || !other.equal(tensor);
    values[places_[i]] = other;
  }
  return any ? std::optional(values) : std::nullopt;
}

std::optional<ChangedArguments::Values> ChangedArguments::of_sample(int64_t sample, int64_t count,
                                                                    Exchange exchange) const {
  std::vector<std::optional<int64_t>> batches;
  for (size_t i = 0; i < dims_.size(); ++i) {
    // All that a sample is made of must change: an argument of as many entries is taken for one of samples.
    const bool has_as_many = tensors_[i].defined() && tensors_[i].dim() > 0 && tensors_[i].size(0) == count;
    batches.push_back(dims_[i].batch ? dims_[i].batch : has_as_many ? std::optional<int64_t>(0) : std::nullopt);
  }
  return changed(at::arange(count).eq(sample), batches, {}, exchange);
}

std::optional<ChangedArguments::Values> ChangedArguments::of_position(int64_t position, int64_t count,
                                                                      Exchange exchange) const {
  std::vector<std::optional<int64_t>> sequences;
  for (const ArgumentDims& dims : dims_) sequences.push_back(dims.sequence);
  return changed(at::arange(count).eq(position), sequences, {}, exchange);
}

std::optional<ChangedArguments::Values> ChangedArguments::of_tokens(const at::Tensor& which, Exchange exchange) const {
  std::vector<std::optional<int64_t>> batches, sequences;
  for (const ArgumentDims& dims : dims_) {
    batches.push_back(dims.batch);
    sequences.push_back(dims.sequence);
  }
  return changed(which.cpu(), batches, sequences, exchange);
}

std::optional<at::Tensor> ChangedArguments::mask_without_padding(size_t place, hooks::MaskMeans means) const {
  if (place >= tensors_.size() || !tensors_[place].defined()) return std::nullopt;
  const at::Tensor& mask = tensors_[place];
  const at::Tensor valid = read_mask(mask, means);
  const at::Tensor of_tokens = mask.masked_select(valid);
  if (of_tokens.numel() == 0 || of_tokens.numel() == mask.numel()) return std::nullopt;
  return at::where(valid, mask, of_tokens[0]);
}

ChangedArguments::Values ChangedArguments::with(Values values, size_t place, const at::Tensor& tensor) const {
  values.at(places_.at(place)) = tensor;
  return values;
}

}  // namespace moetap::plugin
