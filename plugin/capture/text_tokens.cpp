#include "plugin/capture/text_tokens.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moetap::plugin {
namespace {

constexpr double kVeryNegative = -50;

std::string print_sizes(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

at::Tensor as_batch(const at::Tensor& tensor, bool sequence_first) {
  if (tensor.dim() == 1) return tensor.unsqueeze(0);
  return sequence_first && tensor.dim() == 2 ? tensor.t() : tensor;
}

/// int64 [B, S]: the columns of a mask that the tokens of a text stand at; undefined: `places` does not fit.
at::Tensor columns_of(const at::Tensor& places, int64_t batch, int64_t length, int64_t mask_columns) {
  if (!places.defined() || !at::isIntegralType(places.scalar_type(), /*includeBool=*/false)) return {};
  const bool by_sample = places.dim() == 2 && places.size(0) == batch && places.size(1) == length;
  const bool one_each = length == 1 && places.dim() == 1 && places.size(0) == batch && batch > 1;
  if (!by_sample && !one_each && (places.numel() != length || places.dim() > 2)) return {};
  const at::Tensor rows = one_each || by_sample ? places.reshape({batch, length}) : places.reshape({1, length});
  return rows.to(at::kLong).clamp(0, mask_columns - 1).expand({batch, length});
}

}  // namespace

at::Tensor read_mask(const at::Tensor& mask, hooks::MaskMeans means) {
  if (means == hooks::MaskMeans::kValid) return mask.ne(0);
  if (means == hooks::MaskMeans::kPadding) return mask.eq(0);
  if (!at::isFloatingType(mask.scalar_type())) return mask.ne(0);  // no bool or integer is added to scores
  const auto stays = mask.gt(kVeryNegative);
  if (means == hooks::MaskMeans::kAdditive) return stays;
  // Decided on the device: asking the host would wait for it. Where no number is positive, a mask of 0 and 1 would say
  // that nothing counts.
  const auto additive = mask.lt(0).any().logical_or(mask.gt(0).any().logical_not());
  return at::where(additive, stays, mask.ne(0));
}

TextTokens read_text(const at::Tensor& ids, const at::Tensor& mask, bool keep_ids, const TextReading& reading,
                     const at::Tensor& places) {
  TextTokens text;
  if (ids.defined() && at::isIntegralType(ids.scalar_type(), /*includeBool=*/false) &&
      (ids.dim() == 1 || ids.dim() == 2)) {
    const auto batch_ids = as_batch(ids, reading.ids_sequence_first);
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
  const auto batch_mask = as_batch(mask, reading.mask_sequence_first);
  if (text.batch == 0 && batch_mask.dim() == 2 && reading.mask_in_buffer) {
    text.notice = "a token mask over a static cache counts only where there are token ids";
    text.notice_detail = fmt::format("got {}", print_sizes(mask));
    return text;
  }
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
  text.mask = read_mask(batch_mask, reading.mask_means);
  if (reading.mask_in_buffer && text.mask_columns != text.length) {
    const at::Tensor columns = columns_of(places, text.batch, text.length, text.mask_columns);
    if (columns.defined()) {
      text.valid = text.mask.gather(1, columns.to(text.mask.device()));
    } else {
      text.notice =
          "the token mask covers a static cache, or keys behind the tokens, and which of its columns are the tokens is "
          "not known: padding counts as tokens";
      text.notice_detail = fmt::format("got {}", print_sizes(mask));
    }
    return text;
  }
  text.valid = text.mask.narrow(1, text.mask_columns - text.length, text.length);
  return text;
}

void narrow_to_step(TextTokens& text, int64_t num_tokens) {
  if (!text.length_of_mask || num_tokens != text.batch) return;
  text.length_of_mask = false;
  text.valid = text.valid.narrow(1, text.length - 1, 1);
  text.length = 1;
}

}  // namespace moetap::plugin
