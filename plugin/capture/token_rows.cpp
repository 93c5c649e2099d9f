#include "plugin/capture/token_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>

namespace moetap::plugin {
namespace {

int64_t count_tokens(at::IntArrayRef token_sizes) {
  return std::accumulate(token_sizes.begin(), token_sizes.end(), int64_t{1}, std::multiplies<>());
}

/// int64 [num_tokens] on `device`: t / step % size, of all numbers t or of `places`.
at::Tensor coordinate(int64_t step, int64_t size, int64_t num_tokens, c10::Device device,
                      const at::Tensor& places = {}) {
  const auto tokens = places.defined() ? places.to(device, /*non_blocking=*/true)
                                       : at::arange(num_tokens, at::TensorOptions().dtype(at::kLong).device(device));
  return at::floor_divide(tokens, std::max<int64_t>(1, step)).remainder(std::max<int64_t>(1, size));
}

bool is_row_by_row(const Attribution& attribution, int64_t num_tokens) {
  return attribution.num_rows * attribution.row_step == num_tokens || attribution.num_rows <= 1;
}

/// Which columns the text's ids are in: the part of a concatenation that is looked up by them, or all.
std::optional<int64_t> first_column_of(const TokenPlaces& places, const std::optional<size_t>& ids, int64_t length) {
  if (places.parts.empty()) return places.length == length ? std::optional<int64_t>(0) : std::nullopt;
  int64_t first = 0;
  for (size_t i = 0; i < places.parts.size(); ++i) {
    const auto& arguments = places.parts[i].arguments;
    const bool is_text = ids && std::any_of(arguments.begin(), arguments.end(), [&](const hooks::ArgumentDim& dim) {
                           return dim.argument == static_cast<int64_t>(*ids);
                         });
    const bool fits = first + length <= places.length;
    if (is_text && fits && (places.part_sizes[i] == length || places.part_sizes[i] < 0)) return first;
    if (places.part_sizes[i] < 0) return std::nullopt;
    first += places.part_sizes[i];
  }
  return std::nullopt;
}

}  // namespace

Attribution not_attributed(PositionOf position) {
  Attribution attribution;
  attribution.attributed = false;
  attribution.position = position;
  return attribution;
}

Attribution attribute_tokens(const TokenPlaces& places, const TextTokens* text, const std::optional<size_t>& ids,
                             std::optional<int64_t> batch, int64_t num_tokens) {
  Attribution attribution;
  attribution.num_rows = places.batch;
  attribution.row_step = places.batch_step;
  if (places.has_sequence) {
    attribution.position = PositionOf::kSequence;
    attribution.num_positions = places.length;
    attribution.position_step = places.sequence_step;
  } else if (num_tokens == places.batch) {
    attribution.position = PositionOf::kNone;
  }
  if (text != nullptr && places.has_sequence && text->batch == places.batch) {
    const auto first = first_column_of(places, ids, text->length);
    if (first) attribution.ids = {*first, text->length};
    attribution.whole_mask = text->mask.defined() && text->mask_columns == places.length;
    attribution.mask = attribution.whole_mask ? TextColumns{0, places.length} : attribution.ids;
    attribution.text = first || attribution.whole_mask;
  }
  if (batch && *batch != places.batch) {  // a decoder that runs another number of sequences than the samples
    attribution.attributed = false;
    attribution.num_rows = 1;
  }
  return attribution;
}

Attribution attribute_tokens(at::IntArrayRef token_sizes, const TextTokens* text, std::optional<int64_t> batch) {
  const int64_t num_tokens = count_tokens(token_sizes);
  if (text != nullptr && text->batch > 0 && num_tokens == text->batch * text->length) {
    const bool has_both = token_sizes == at::IntArrayRef({text->length, text->batch});
    if (has_both && text->length == text->batch && text->batch > 1) return not_attributed(PositionOf::kNone);
    const bool sequence_first = has_both && text->batch > 1;
    TokenPlaces places;
    places.batch = text->batch;
    places.batch_step = sequence_first ? 1 : text->length;
    places.has_sequence = true;
    places.length = text->length;
    places.sequence_step = sequence_first ? text->batch : 1;
    return attribute_tokens(places, text, std::nullopt, batch, num_tokens);
  }
  if (!batch) return not_attributed(PositionOf::kCall);
  Attribution attribution;
  attribution.num_rows = *batch;
  attribution.row_step = *batch == 0 ? 1 : num_tokens / *batch;
  if (*batch <= 1) return attribution;
  const bool leads = token_sizes.size() >= 2 && token_sizes.front() == *batch;
  return leads && std::count(token_sizes.begin(), token_sizes.end(), *batch) == 1 ? attribution
                                                                                  : not_attributed(PositionOf::kCall);
}

std::optional<int64_t> batch_of_router(at::IntArrayRef token_sizes) {
  return token_sizes.size() >= 2 && token_sizes.front() > 0 ? std::optional<int64_t>(token_sizes.front())
                                                            : std::nullopt;
}

at::Tensor in_token_order(const at::Tensor& text_tensor, const TextColumns& columns, const Attribution& attribution,
                          int64_t num_tokens, int64_t fill) {
  const int64_t batch = text_tensor.size(0), length = text_tensor.size(1);
  const bool whole = columns.first == 0 && attribution.num_positions == length && num_tokens == batch * length;
  if (whole && attribution.position_step == 1) return text_tensor.reshape({-1});
  if (whole && attribution.row_step == 1) return text_tensor.t().reshape({-1});
  if (length == 0 || batch == 0) return at::full({num_tokens}, fill, text_tensor.options());
  const c10::Device device = text_tensor.device();
  const auto rows = coordinate(attribution.row_step, batch, num_tokens, device);
  const auto places =
      coordinate(attribution.position_step, attribution.num_positions, num_tokens, device).sub(columns.first);
  const auto entries = text_tensor.reshape({-1}).index_select(0, rows.mul(length).add(places.clamp(0, length - 1)));
  const auto has_entry = places.ge(0).logical_and(places.lt(length));
  return entries.masked_fill(has_entry.logical_not(), fill);
}

at::Tensor packed_places(const Attribution& attribution, const at::Tensor& argument, bool transposed,
                         int64_t num_tokens) {
  if (!attribution.packed || !argument.defined() || argument.dim() != 2) return {};
  const at::Tensor by_sample = transposed ? argument.t() : argument;
  if (by_sample.size(0) != attribution.num_rows || by_sample.size(1) != attribution.num_positions) return {};
  const double number = attribution.packed->number;
  const auto compared = [&] {
    switch (attribution.packed->keeps) {
      case hooks::Comparison::kEqual:
        return by_sample.eq(number);
      case hooks::Comparison::kNotEqual:
        return by_sample.ne(number);
      case hooks::Comparison::kLess:
        return by_sample.lt(number);
      case hooks::Comparison::kLessEqual:
        return by_sample.le(number);
      case hooks::Comparison::kGreater:
        return by_sample.gt(number);
      case hooks::Comparison::kGreaterEqual:
        break;
    }
    return by_sample.ge(number);
  };
  const TextColumns all{0, attribution.num_positions};
  const at::Tensor left = in_token_order(compared(), all, attribution, attribution.num_places, /*fill=*/0);
  if (left.is_cpu()) {  // a device is not waited for
    const at::Tensor places = left.nonzero().squeeze(1);
    return places.size(0) == num_tokens ? places : at::Tensor();
  }
  // A stable sort brings them to the front without asking the device how many there are.
  return std::get<1>(left.logical_not().to(at::kByte).sort(/*stable=*/true, 0, false)).narrow(0, 0, num_tokens);
}

analysis::TokenRows rows_for(const Attribution& attribution, const at::Tensor& valid, int64_t num_tokens,
                             c10::Device device, const at::Tensor& places) {
  analysis::TokenRows rows;
  rows.valid = valid;
  if (!attribution.attributed) return rows;
  rows.num_rows = attribution.num_rows;
  if (!places.defined()) {
    if (is_row_by_row(attribution, num_tokens)) return rows;
    if (attribution.row_step == 1) {
      rows.order = analysis::RowOrder::kInterleaved;
      return rows;
    }
  }
  rows.row = coordinate(attribution.row_step, attribution.num_rows, num_tokens, device, places);
  if (valid.defined()) rows.row.masked_fill_(valid.logical_not(), -1);
  rows.valid = at::Tensor();
  return rows;
}

at::Tensor row_column(const Attribution& attribution, int64_t num_tokens, const at::Tensor& places) {
  if (!attribution.attributed) return at::full({num_tokens}, -1, at::kLong);
  return coordinate(attribution.row_step, attribution.num_rows, num_tokens, at::kCPU, places);
}

at::Tensor position_column(const Attribution& attribution, int64_t num_tokens, const at::Tensor& places) {
  switch (attribution.position) {
    case PositionOf::kNone:
      return at::full({num_tokens}, -1, at::kInt);
    case PositionOf::kSequence:
      return coordinate(attribution.position_step, attribution.num_positions, num_tokens, at::kCPU, places)
          .to(at::kInt);
    case PositionOf::kCall:
      break;
  }
  return at::arange(num_tokens, at::kInt);
}

}  // namespace moetap::plugin
