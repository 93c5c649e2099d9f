#include "plugin/session/model_binding.h"

#include <c10/util/Exception.h>

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

size_t ModelBinding::checked(int64_t hook) const {
  TORCH_CHECK(hook >= 0 && hook < static_cast<int64_t>(called_.size()), "hook must be in [0, ", called_.size(),
              "), got ", hook);
  return static_cast<size_t>(hook);
}

}  // namespace moetap::plugin
