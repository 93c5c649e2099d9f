#include "analysis/studies/used_rows.h"

#include <algorithm>

#include "analysis/studies/token_runs.h"

namespace moetap::analysis::studies {

const UsedRows& UsedRowsOfBatch::of(const TokenBatch& batch, size_t layer, Order order) {
  if (batch.used != nullptr && batch.used != this) return batch.used->of(batch, layer, order);
  if (layers_.size() < batch.layers.size()) layers_.resize(batch.layers.size());
  Layer& of = layers_[layer];
  if (!keeps_) of.known = Known();
  const auto place = static_cast<size_t>(order);
  UsedRows& rows = of.rows[place];
  if (of.known.has_rows[place]) return rows;
  const LayerTokens& tokens = batch.layers[layer];
  if (!of.known.is_whole_known) {
    of.known.is_whole = is_whole(batch, tokens);
    of.known.is_whole_known = true;
  }
  rows = UsedRows{tokens.ids, {}, batch.num_tokens, static_cast<size_t>(tokens.top_k)};
  if (!of.known.is_whole || !is_as_it_is(tokens, order)) make(batch, tokens, order, of);
  of.known.has_rows[place] = true;
  return rows;
}

bool UsedRowsOfBatch::is_whole(const TokenBatch& batch, const LayerTokens& tokens) const {
  for (const std::span<const uint8_t> flags : {batch.valid, tokens.seen}) {
    if (std::find(flags.begin(), flags.end(), uint8_t{0}) != flags.end()) return false;
  }
  return loops_.are_below(tokens.ids.data(), tokens.ids.size(), tokens.num_experts) &&
         loops_.have_no_zero(tokens.weights.data(), tokens.weights.size());
}

bool UsedRowsOfBatch::is_as_it_is(const LayerTokens& tokens, Order order) const {
  const auto width = static_cast<size_t>(tokens.top_k);
  if (width == 0 || order == Order::kSlots) return true;
  const size_t num_rows = tokens.ids.size() / width;
  if (order == Order::kDistinct) return !loops_.have_repeats(tokens.ids.data(), num_rows, width);
  return tokens.weights.empty() || loops_.descend(tokens.weights.data(), num_rows, width);
}

void UsedRowsOfBatch::make(const TokenBatch& batch, const LayerTokens& tokens, Order order, Layer& into) {
  const auto place = static_cast<size_t>(order), width = static_cast<size_t>(tokens.top_k);
  std::vector<int32_t>&ids = into.ids[place], &count = into.count[place];
  ids.resize(tokens.ids.size());
  count.resize(static_cast<size_t>(batch.num_tokens));
  for (int64_t t = 0; t < batch.num_tokens; ++t) {
    const auto row = static_cast<size_t>(t);
    if (!has_row(batch, tokens, t)) {
      count[row] = -1;
      continue;
    }
    const std::span<const int32_t> experts = order == Order::kSlots      ? used_.in_order(tokens, t)
                                             : order == Order::kDistinct ? used_.distinct(tokens, t)
                                                                         : used_.ranked(tokens, t);
    count[row] = static_cast<int32_t>(experts.size());
    std::copy(experts.begin(), experts.end(), ids.begin() + static_cast<std::ptrdiff_t>(row * width));
  }
  into.rows[place] = UsedRows{ids, count, batch.num_tokens, width};
}

}  // namespace moetap::analysis::studies
