#include "plugin/capture/forward_tokens.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "plugin/capture/device_stream.h"
#include "plugin/capture/host_copies.h"
#include "plugin/process/recycled_memory.h"

namespace moetap::plugin {

void ForwardTokens::read(const TextArguments& places, const c10::List<std::optional<at::Tensor>>& arguments,
                         bool keep_ids, HostCopies& copies, Notice notice) {
  const auto argument = [&](const std::optional<size_t>& place) {
    if (!place || *place >= arguments.size()) return at::Tensor();
    const std::optional<at::Tensor> tensor = arguments.get(*place);
    if (!tensor || !tensor->defined()) return at::Tensor();
    return tensor->requires_grad() ? tensor->detach() : *tensor;
  };
  const auto read_arguments = [&](const std::optional<size_t>& ids, const std::optional<size_t>& mask,
                                  const std::optional<size_t>& mask_places, const TextReading& reading) {
    const at::Tensor ids_tensor = argument(ids), mask_tensor = argument(mask);
    const at::Tensor& on_device = ids_tensor.defined() && !ids_tensor.is_cpu() ? ids_tensor : mask_tensor;
    const OutsideCaptures outside(on_device.defined() ? on_device.device() : c10::Device(c10::kCPU));
    return read_text(ids_tensor, mask_tensor, keep_ids, reading, argument(mask_places));
  };
  const std::lock_guard lock(mutex_);
  arguments_ = &places;
  sizes_.reserve(arguments.size());
  for (const std::optional<at::Tensor>& tensor : arguments) {
    sizes_.push_back(tensor && tensor->defined() ? std::optional<at::DimVector>(tensor->sizes()) : std::nullopt);
  }
  text_ = read_arguments(places.ids, places.mask, places.mask_places, places.reading);
  decoder_text_ =
      read_arguments(places.decoder_ids, places.decoder_mask, places.decoder_mask_places, places.decoder_reading);
  const auto keep = [&](const at::Tensor& made) {
    if (!made.defined() || copies.is_capturing(made.device())) return;
    copies.mark_stream(made.device());
    copies.keep(made);  // forks may read it on other streams
  };
  for (const size_t place : places.packings) {
    const at::Tensor tensor = argument(place);
    if (!tensor.defined()) continue;
    const OutsideCaptures outside(tensor.device());
    packings_.emplace_back(place, tensor.clone());
    keep(packings_.back().second);
  }
  for (const TextTokens* text : {&text_, &decoder_text_}) {
    if (!text->notice.empty()) notice(text->notice, text->notice_detail);
    if (!batch_ && text->batch > 0) batch_ = text->batch;
    for (const at::Tensor& made : {text->ids, text->valid, text->mask}) keep(made);
  }
  if (!batch_) batch_ = batch_of_arguments(places.batches, sizes_);
}

TextOfComponent ForwardTokens::text_of_hook(int64_t hook, const std::string& component) const {
  const auto place = static_cast<size_t>(hook);
  const bool is_known = arguments_ != nullptr && place < arguments_->texts_of_hooks.size();
  return is_known ? arguments_->texts_of_hooks[place] : text_of_component(component);
}

Attribution ForwardTokens::attribute(const CallTokens& call, int64_t num_tokens) {
  const TextTokens* text = text_of(call.text);
  if (call.layout != nullptr) {
    if (const auto places = place_tokens(*call.layout, sizes_, num_tokens)) {
      std::optional<size_t> ids;
      if (arguments_ != nullptr) {
        ids = call.text == TextOfComponent::kDecoder ? arguments_->decoder_ids : arguments_->ids;
      }
      Attribution attribution = attribute_tokens(*places, text, ids, batch_, places->num_places);
      attribution.packed = call.layout->packed;
      if (attribution.packed) attribution.num_places = places->num_places;
      return attribution;
    }
    if (call.layout->packed) return not_attributed(PositionOf::kCall);
    // Hidden states [B, D] in a model that takes [B, S, D] as well.
    if (call.layout->known && batch_ && num_tokens == *batch_) {
      TokenPlaces one_each;
      one_each.batch = num_tokens;
      return attribute_tokens(one_each, nullptr, std::nullopt, batch_, num_tokens);
    }
  }
  if (!batch_ && !ended_) batch_ = batch_of_router(call.sizes);
  return attribute_tokens(call.sizes, text, batch_);
}

const TextTokens* ForwardTokens::text_of(TextOfComponent text) const {
  switch (text) {
    case TextOfComponent::kText:
      return &text_;
    case TextOfComponent::kDecoder:
      return &decoder_text_;
    case TextOfComponent::kNone:
      break;
  }
  return nullptr;
}

std::shared_ptr<const TokenGroup> ForwardTokens::group_of(const CallTokens& call, HostCopies* copies) {
  const int64_t num_tokens = std::accumulate(call.sizes.begin(), call.sizes.end(), int64_t{1}, std::multiplies<>());
  const std::lock_guard lock(mutex_);
  if (!ended_ && call.text != TextOfComponent::kNone) {
    narrow_to_step(call.text == TextOfComponent::kText ? text_ : decoder_text_, num_tokens);
  }
  const Attribution attribution = attribute(call, num_tokens);
  const auto known = std::find_if(groups_.begin(), groups_.end(), [&](const KnownGroup& known) {
    const TokenGroup& group = *known.group;
    return group.text == call.text && group.device == call.device && group.num_tokens == num_tokens &&
           group.attribution == attribution;
  });
  if (known != groups_.end()) {
    // Only a captured call waits within the capture: another one would join its stream to the host's graph.
    if (copies == nullptr && known->captured) known->captured->block(current_stream(call.device));
    return known->group;
  }
  groups_.push_back({new_group(call, attribution, num_tokens)});
  // Before another thread can find the group.
  if (copies != nullptr) {
    copies->mark_stream(call.device);
    if (const at::Tensor& row = groups_.back().group->rows.row; row.defined()) copies->keep(row);  // as the texts
  } else {
    groups_.back().captured.emplace(call.device.type());
    groups_.back().captured->record(current_stream(call.device));
  }
  return groups_.back().group;
}

at::Tensor ForwardTokens::places_of(const Attribution& attribution, const hooks::TokenLayout& layout,
                                    int64_t num_tokens) const {
  const auto packing = std::find_if(packings_.begin(), packings_.end(), [&](const auto& known) {
    return static_cast<int64_t>(known.first) == attribution.packed->argument;
  });
  if (packing == packings_.end()) return {};
  const bool transposed = std::any_of(layout.dims.begin(), layout.dims.end(), [&](const hooks::TokenDim& dim) {
    return dim.role == hooks::TokenDimRole::kBatch &&
           std::any_of(dim.arguments.begin(), dim.arguments.end(), [&](const hooks::ArgumentDim& own) {
             return own.argument == attribution.packed->argument && own.dim == 1;
           });
  });
  return packed_places(attribution, packing->second, transposed, num_tokens);
}

std::shared_ptr<const TokenGroup> ForwardTokens::new_group(const CallTokens& call, const Attribution& attribution,
                                                           int64_t num_tokens) const {
  auto group = std::allocate_shared<TokenGroup>(RecyclingAllocator<TokenGroup>());
  group->text = call.text;
  group->device = call.device;
  group->num_tokens = num_tokens;
  group->attribution = attribution;
  const bool for_host = !call.device.is_cpu() && call.columns != nullptr;
  if (attribution.packed) {
    group->places = places_of(attribution, *call.layout, num_tokens);
    if (!group->places.defined()) {
      group->attribution = not_attributed(PositionOf::kCall);
      group->rows = rows_for(group->attribution, {}, num_tokens, call.device);
      return group;
    }
    group->places = group->places.to(call.device, /*non_blocking=*/true);
    if (for_host) group->places = call.columns->snapshot(group->places);
  }
  const int64_t num_places = attribution.packed ? attribution.num_places : num_tokens;
  const auto of_tokens = [&](const at::Tensor& of_text, const TextColumns& columns, int64_t fill) {
    const at::Tensor all = in_token_order(of_text, columns, attribution, num_places, fill);
    return group->places.defined() ? all.index_select(0, group->places.to(all.device(), /*non_blocking=*/true)) : all;
  };
  if (attribution.text) {
    const TextTokens& tokens = *text_of(call.text);
    const at::Tensor& valid = attribution.whole_mask ? tokens.mask : tokens.valid;
    if (valid.defined()) {
      group->valid = of_tokens(valid, attribution.mask, /*fill=*/1).to(call.device, /*non_blocking=*/true);
      if (for_host) group->valid = call.columns->snapshot(group->valid);
    }
    if (tokens.ids.defined()) {
      group->token_ids = of_tokens(tokens.ids, attribution.ids, /*fill=*/-1);
      if (for_host) group->token_ids = call.columns->snapshot(group->token_ids);
    }
  }
  group->rows = rows_for(attribution, group->valid, num_tokens, call.device, group->places);
  return group;
}

at::Tensor ForwardTokens::first_valid(const std::shared_ptr<const TokenGroup>& group, int64_t count,
                                      HostCopies& copies) {
  const std::lock_guard lock(mutex_);
  const auto known =
      std::find_if(groups_.begin(), groups_.end(), [&](const KnownGroup& known) { return known.group == group; });
  TORCH_INTERNAL_ASSERT(known != groups_.end(), "a group of another forward");
  at::Tensor& first = known->first_valid;
  if (!first.defined()) {
    // A stable sort brings the valid tokens to the front without asking the device how many there are.
    first =
        group->valid.defined()
            ? std::get<1>(group->valid.logical_not().to(at::kByte).sort(/*stable=*/true, 0, false)).narrow(0, 0, count)
            : at::arange(count, at::TensorOptions().dtype(at::kLong).device(group->device));
    copies.mark_stream(group->device);
    copies.keep(first);  // as the texts
  }
  return first;
}

void ForwardTokens::end() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
}

std::optional<int64_t> ForwardTokens::batch() const {
  const std::lock_guard lock(mutex_);
  return batch_;
}

TextTokens ForwardTokens::text() const {
  const std::lock_guard lock(mutex_);
  return text_;
}

TextTokens ForwardTokens::query_text() const {
  const std::lock_guard lock(mutex_);
  return decoder_text_.batch > 0 ? decoder_text_ : text_;
}

bool ForwardTokens::texts_are_on_cpu() const {
  const std::lock_guard lock(mutex_);
  for (const TextTokens* text : {&text_, &decoder_text_}) {
    for (const at::Tensor* tensor : {&text->ids, &text->mask}) {
      if (tensor->defined() && !tensor->is_cpu()) return false;
    }
  }
  return true;
}

bool ForwardTokens::in_captured_graph(HostCopies& copies) const {
  const std::lock_guard lock(mutex_);
  return (text_.valid.defined() && copies.is_capturing(text_.valid.device())) ||
         std::any_of(groups_.begin(), groups_.end(),
                     [&](const KnownGroup& known) { return copies.is_capturing(known.group->device); });
}

}  // namespace moetap::plugin
