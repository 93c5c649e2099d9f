#include "plugin/session/model_binding.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "plugin/session/recording.h"

namespace moetap::plugin {
namespace {

hooks::MaskMeans mask_means(TokenMaskMeans setting) {
  switch (setting) {
    case TokenMaskMeans::kValid:
      return hooks::MaskMeans::kValid;
    case TokenMaskMeans::kPadding:
      return hooks::MaskMeans::kPadding;
    case TokenMaskMeans::kAdditive:
      return hooks::MaskMeans::kAdditive;
    case TokenMaskMeans::kAuto:
      break;
  }
  return hooks::MaskMeans::kAuto;
}

}  // namespace

ModelBinding::ModelBinding(std::shared_ptr<Recording> recording, std::shared_ptr<const ModelDescription> model)
    : recording_(std::move(recording)),
      model_(std::move(model)),
      called_(model_->hooks.size()),
      routers_(std::make_shared<RouterState>(*model_, recording_->config().check_every)) {
  recording_->add_checks(model_, routers_->checks);
  const Config& config = recording_->config();
  attention_regions_ = AttentionRegions::from_text(config.attention_regions);
  records_attention_ = config.attention != Attention::kOff &&
                       std::any_of(model_->hooks.begin(), model_->hooks.end(), [](const hooks::HookPoint& hook) {
                         return hook.kind == hooks::HookKind::kAttention;
                       });
  for (const auto& [method, names] : model_->method_arguments) {
    text_arguments_[method] = find_text_arguments(
        method, names, model_->hooks, {config.token_ids, config.token_mask, mask_means(config.token_mask_means)});
  }
}

const TextArguments& ModelBinding::text_arguments(const std::string& method) const {
  static const auto* none = new TextArguments;
  const auto found = text_arguments_.find(method);
  return found == text_arguments_.end() ? *none : found->second;
}

std::optional<size_t> ModelBinding::region_argument(const std::string& method) const {
  const auto names = model_->method_arguments.find(method);
  if (attention_regions_.by != AttentionRegions::By::kArgument || names == model_->method_arguments.end()) return {};
  const auto found = std::find(names->second.begin(), names->second.end(), attention_regions_.argument);
  if (found == names->second.end()) return {};
  return static_cast<size_t>(found - names->second.begin());
}

size_t ModelBinding::checked(int64_t hook) const {
  TORCH_CHECK(hook >= 0 && hook < static_cast<int64_t>(called_.size()), "hook must be in [0, ", called_.size(),
              "), got ", hook);
  return static_cast<size_t>(hook);
}

}  // namespace moetap::plugin
