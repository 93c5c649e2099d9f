#include "cli/commands/attention_bytes.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/jit_type.h>
#include <optional>

#include "hooks/points/token_sequence.h"
#include "plugin/capture/token_places.h"

namespace moetap::cli {
namespace {

/// Sizes of the Tensor and Tensor? arguments, in order.
plugin::ArgumentSizes sizes_of(const c10::FunctionSchema& schema, const std::vector<c10::IValue>& arguments) {
  plugin::ArgumentSizes sizes;
  for (size_t i = 1; i < schema.arguments().size() && i <= arguments.size(); ++i) {
    const c10::Type& type = *schema.arguments()[i].type();
    if (!type.isSubtypeOf(*c10::TensorType::get()) && !type.isSubtypeOf(*c10::OptionalType::ofTensor())) continue;
    const c10::IValue& value = arguments[i - 1];
    sizes.push_back(value.isTensor() && value.toTensor().defined()
                        ? std::optional<at::DimVector>(value.toTensor().sizes())
                        : std::nullopt);
  }
  return sizes;
}

std::optional<int64_t> length_of(const hooks::TokenLayout& layout, const plugin::ArgumentSizes& sizes) {
  const hooks::TokenDim* sequence = hooks::sequence_of(layout);
  return sequence == nullptr ? std::nullopt : plugin::size_of(*sequence, sizes);
}

}  // namespace

plugin::AttentionBytes attention_bytes(const std::vector<hooks::HookPoint>& hooks, const c10::FunctionSchema& schema,
                                       const std::vector<c10::IValue>& arguments) {
  const plugin::ArgumentSizes sizes = sizes_of(schema, arguments);
  plugin::AttentionBytes total;
  for (const hooks::HookPoint& hook : hooks) {
    if (hook.kind != hooks::HookKind::kAttention) continue;
    const auto queries = length_of(hook.tokens, sizes), keys = length_of(hook.key_tokens, sizes);
    if (!queries || !keys) {
      ++total.num_unknown;
      continue;
    }
    total.add_layers(1, *queries, *keys);
  }
  return total;
}

}  // namespace moetap::cli
