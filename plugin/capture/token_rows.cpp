#include "plugin/capture/token_rows.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <string_view>

namespace moetap::plugin {
namespace {

// In the order of preference. Masks whose sense differs between libraries (padding_mask, key_padding_mask) are left
// out: the user names them in `token_mask`.
constexpr std::string_view kIdsNames[] = {"input_ids", "token_ids", "input_tokens", "tokens", "ids"};
constexpr std::string_view kMaskNames[] = {"attention_mask", "token_mask", "input_mask", "attn_mask", "mask"};
constexpr std::string_view kDecoderIdsNames[] = {"decoder_input_ids", "decoder_token_ids"};
constexpr std::string_view kDecoderMaskNames[] = {"decoder_attention_mask", "decoder_token_mask"};

template <size_t N>
std::optional<size_t> find_name(const std::vector<std::string>& names, const std::string_view (&usual)[N],
                                const std::string& configured = "") {
  if (!configured.empty()) {
    const auto found = std::find(names.begin(), names.end(), configured);
    return found == names.end() ? std::nullopt : std::optional<size_t>(found - names.begin());
  }
  for (const auto& name : usual) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found != names.end()) {
      return found - names.begin();
    }
  }
  return std::nullopt;
}

std::string print_sizes(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

at::Tensor as_batch(const at::Tensor& tensor) {
  return tensor.dim() == 1 ? tensor.unsqueeze(0) : tensor;
}

at::Tensor read_mask(const at::Tensor& mask) {
  const auto present = mask.ne(0);
  if (mask.scalar_type() == at::kBool || at::isIntegralType(mask.scalar_type(), /*includeBool=*/true)) {
    return present;
  }
  // Decided on the device: asking the host whether a number is negative would wait for it.
  const auto additive = mask.lt(0).any();
  return at::where(additive, present.logical_not(), present);
}

int64_t count_tokens(const std::vector<int64_t>& token_sizes) {
  return std::accumulate(token_sizes.begin(), token_sizes.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace

TextArguments find_text_arguments(const std::vector<std::string>& names, const std::string& token_ids,
                                  const std::string& token_mask) {
  return {find_name(names, kIdsNames, token_ids), find_name(names, kMaskNames, token_mask),
          find_name(names, kDecoderIdsNames), find_name(names, kDecoderMaskNames)};
}

TextTokens read_text(const at::Tensor& ids, const at::Tensor& mask, bool keep_ids) {
  TextTokens text;
  if (ids.defined() && at::isIntegralType(ids.scalar_type(), /*includeBool=*/false) &&
      (ids.dim() == 1 || ids.dim() == 2)) {
    const auto batch_ids = as_batch(ids);
    text.batch = batch_ids.size(0);
    text.length = batch_ids.size(1);
    if (keep_ids) {
      text.ids = batch_ids.to(at::kLong, /*non_blocking=*/false, /*copy=*/true);
    }
  } else if (ids.defined()) {
    text.notice = "token ids must be integers [B, S], others are not used";
    text.notice_detail = fmt::format("got {} {}", c10::toString(ids.scalar_type()), print_sizes(ids));
  }
  if (!mask.defined()) {
    return text;
  }
  auto batch_mask = as_batch(mask);
  if (text.batch == 0 && batch_mask.dim() == 2) {
    text.batch = batch_mask.size(0);
    text.length = batch_mask.size(1);
    text.length_of_mask = true;
  }
  if (batch_mask.dim() != 2 || batch_mask.size(0) != text.batch || batch_mask.size(1) < text.length) {
    text.notice = "the token mask must be [B, S], others are not used";
    text.notice_detail = text.batch == 0 ? fmt::format("got {}", print_sizes(mask))
                                         : fmt::format("expected [B = {}, S = {} or more], got {}", text.batch,
                                                       text.length, print_sizes(mask));
    return text;
  }
  text.mask_columns = batch_mask.size(1);
  batch_mask = batch_mask.narrow(1, batch_mask.size(1) - text.length, text.length);
  text.valid = read_mask(batch_mask);
  return text;
}

void narrow_to_step(TextTokens& text, int64_t num_tokens) {
  if (!text.length_of_mask || num_tokens != text.batch) return;
  text.length_of_mask = false;
  text.valid = text.valid.narrow(1, text.length - 1, 1);
  text.length = 1;
}

TextOfComponent text_of_component(const std::string& component) {
  if (component == "language_model" || component == "encoder") {
    return TextOfComponent::kText;
  }
  return component == "decoder" ? TextOfComponent::kDecoder : TextOfComponent::kNone;
}

Attribution attribute_tokens(const std::vector<int64_t>& token_sizes, const TextTokens* text,
                             std::optional<int64_t> batch) {
  Attribution attribution;
  const int64_t num_tokens = count_tokens(token_sizes);
  if (text != nullptr && text->batch > 0 && num_tokens == text->batch * text->length) {
    attribution.text = true;
    attribution.num_rows = text->batch;
    if (batch && *batch != text->batch) {  // a decoder that runs another number of sequences than the samples
      attribution.attributed = false;
      attribution.num_rows = 1;
      return attribution;
    }
    const std::vector<int64_t> sequence_first = {text->length, text->batch};
    if (text->length != text->batch && token_sizes == sequence_first) {
      attribution.order = TokenOrder::kSequenceFirst;
    }
    return attribution;
  }
  if (!batch) {
    attribution.assumes_one_sample = true;
  } else if (*batch > 1) {
    attribution.attributed = token_sizes.size() >= 2 && token_sizes.front() == *batch;
    attribution.num_rows = attribution.attributed ? *batch : 1;
  }
  return attribution;
}

std::optional<int64_t> batch_of_router(const std::vector<int64_t>& token_sizes) {
  return token_sizes.size() >= 2 && token_sizes.front() > 0 ? std::optional<int64_t>(token_sizes.front())
                                                            : std::nullopt;
}

at::Tensor in_token_order(const at::Tensor& text_tensor, TokenOrder order) {
  return (order == TokenOrder::kSequenceFirst ? text_tensor.t() : text_tensor).reshape({-1});
}

analysis::TokenRows rows_for(const Attribution& attribution, const at::Tensor& valid) {
  analysis::TokenRows rows;
  rows.num_rows = attribution.num_rows;
  rows.order = attribution.order == TokenOrder::kSequenceFirst ? analysis::RowOrder::kInterleaved
                                                               : analysis::RowOrder::kRowByRow;
  rows.valid = valid;
  return rows;
}

at::Tensor row_column(const Attribution& attribution, int64_t num_tokens) {
  if (!attribution.attributed) {
    return at::full({num_tokens}, -1, at::kLong);
  }
  if (attribution.num_rows == 0) {
    return at::empty({0}, at::kLong);
  }
  const int64_t per_row = num_tokens / attribution.num_rows;
  const auto rows = at::arange(attribution.num_rows, at::kLong);
  return attribution.order == TokenOrder::kSequenceFirst ? rows.repeat({per_row}) : rows.repeat_interleave(per_row, 0);
}

at::Tensor position_column(const Attribution& attribution, int64_t num_tokens) {
  if (!attribution.text || attribution.num_rows == 0) {
    return at::arange(num_tokens, at::kInt);
  }
  const auto columns = at::arange(num_tokens / attribution.num_rows, at::kInt);
  return attribution.order == TokenOrder::kSequenceFirst ? columns.repeat_interleave(attribution.num_rows, 0)
                                                         : columns.repeat({attribution.num_rows});
}

}  // namespace moetap::plugin
