#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "analysis/attention/attention_paths.h"
#include "analysis/attention/recycled_rows.h"

namespace moetap::analysis {
namespace {

/// Number of keys of each sequence, int64 [B, 1].
at::Tensor keys_of_sequences(const AttentionTokens& tokens) {
  return (tokens.key_position >= 0).sum(1, true);
}

/// The part of `length` that each position is in: see AttentionTokens::query_region. uint8.
at::Tensor part_of(const at::Tensor& position, const at::Tensor& length, int64_t num_regions) {
  // As `part_of_position`.
  const at::Tensor part = ((position.to(at::kLong) + 1) * num_regions - 1).floor_divide(length.clamp_min(1));
  return part.clamp(0, num_regions - 1).to(at::kByte);
}

/// Lines of zeros.
AttentionRows empty_rows(const AttentionShape& shape, const AttentionTokens& tokens, const AttentionOptions& options,
                         at::Device device) {
  AttentionRows rows;
  rows.num_sequences = shape.num_sequences;
  rows.num_queries = shape.num_queries;
  rows.num_heads = shape.num_heads;
  rows.num_regions = tokens.num_regions;
  rows.self = tokens.self;
  rows.sampled = tokens.sampled.defined();
  const int64_t lines = rows.num_lines();
  const auto on_device = at::TensorOptions().device(device);
  rows.values = at::zeros({lines, rows.num_columns()}, on_device.dtype(at::kFloat));
  rows.bins = at::zeros({lines, kNumAttentionBins}, on_device.dtype(at::kFloat));
  rows.head_high = at::zeros({shape.num_sequences, shape.num_heads, kNumHeadSums}, on_device.dtype(at::kLong));
  rows.head_low = at::zeros_like(rows.head_high);
  rows.head_max_score = at::zeros({shape.num_sequences, shape.num_heads}, on_device.dtype(at::kLong));
  if (options.matrix) {
    rows.matrix = at::zeros({shape.num_sequences, shape.num_queries, shape.num_keys}, on_device.dtype(at::kFloat));
  }
  return rows;
}

}  // namespace

AttentionRows prepare_rows(const AttentionShape& shape, const AttentionTokens& tokens, const AttentionOptions& options,
                           at::Device device) {
  AttentionRows rows = empty_rows(shape, tokens, options, device);
  const int64_t lines = rows.num_lines();
  const auto on_device = at::TensorOptions().device(device);
  const at::Tensor& position = tokens.query_position;
  const at::Tensor num_keys = keys_of_sequences(tokens);
  const at::Tensor length = tokens.self || shape.num_queries == 0 ? num_keys : position.amax(1, true).to(at::kLong) + 1;
  const auto of_lines = [&](const at::Tensor& of_sequences) {
    return of_sequences.to(at::kInt).expand({shape.num_sequences, shape.num_queries}).reshape({lines}).contiguous();
  };
  rows.position = position.reshape({lines}).contiguous();
  rows.num_keys = of_lines(num_keys);
  rows.length = of_lines(length);
  rows.region = (tokens.query_region.defined() ? tokens.query_region.clamp_max(tokens.num_regions - 1)
                                               : part_of(position, length, tokens.num_regions))
                    .reshape({lines})
                    .contiguous();

  const at::Tensor is_query = position >= 0;
  const at::Tensor is_row = tokens.sampled.defined() ? is_query.bitwise_and(tokens.sampled) : is_query;
  rows.line = at::where(is_row, at::full({}, kRow, on_device.dtype(at::kByte)),
                        at::where(is_query, at::full({}, kNotSampledRow, on_device.dtype(at::kByte)),
                                  at::full({}, kNoRow, on_device.dtype(at::kByte))))
                  .reshape({lines});
  const at::Tensor measured = is_row.sum(1).to(at::kDouble);
  rows.weight = at::where(measured > 0, is_query.sum(1).to(at::kDouble) / measured.clamp_min(1), 1.0);

  return rows;
}

AttentionRows prepare_rows_on_cpu(const AttentionShape& shape, const AttentionTokens& tokens,
                                  const AttentionOptions& options) {
  AttentionRows rows = recycled_rows(shape, tokens.num_regions);
  if (rows.line.defined()) {
    rows.self = tokens.self;
    rows.sampled = tokens.sampled.defined();
    if (options.matrix) rows.matrix = at::zeros({shape.num_sequences, shape.num_queries, shape.num_keys}, at::kFloat);
  } else {
    rows = empty_rows(shape, tokens, options, at::kCPU);
    const int64_t lines = rows.num_lines();
    for (at::Tensor* of_lines : {&rows.position, &rows.num_keys, &rows.length})
      *of_lines = at::empty({lines}, at::kInt);
    for (at::Tensor* of_lines : {&rows.region, &rows.line}) *of_lines = at::empty({lines}, at::kByte);
    rows.weight = at::empty({shape.num_sequences}, at::kDouble);
  }
  const at::Tensor positions = tokens.query_position.contiguous();
  std::copy_n(positions.const_data_ptr<int32_t>(), rows.num_lines(), rows.position.mutable_data_ptr<int32_t>());
  const at::Tensor keys = tokens.key_position.contiguous();
  const at::Tensor sampled = tokens.sampled.defined() ? tokens.sampled.contiguous() : at::Tensor();
  const at::Tensor regions = tokens.query_region.defined() ? tokens.query_region.contiguous() : at::Tensor();
  const auto largest_region = static_cast<uint8_t>(tokens.num_regions - 1);
  for (int64_t sequence = 0; sequence < shape.num_sequences; ++sequence) {
    const int64_t begin = sequence * shape.num_queries, end = begin + shape.num_queries;
    const int32_t* key_position = keys.const_data_ptr<int32_t>() + sequence * shape.num_keys;
    const int32_t* position = rows.position.const_data_ptr<int32_t>();
    int64_t num_keys = 0, num_queries = 0, num_rows = 0;
    for (int64_t key = 0; key < shape.num_keys; ++key) num_keys += key_position[key] >= 0 ? 1 : 0;
    int64_t length = num_keys;
    if (!tokens.self && begin < end) length = int64_t{*std::max_element(position + begin, position + end)} + 1;
    for (int64_t line = begin; line < end; ++line) {
      const bool is_query = position[line] >= 0;
      const bool is_row = is_query && (!sampled.defined() || sampled.const_data_ptr<bool>()[line]);
      num_queries += is_query ? 1 : 0;
      num_rows += is_row ? 1 : 0;
      rows.line.mutable_data_ptr<uint8_t>()[line] = is_row ? kRow : (is_query ? kNotSampledRow : kNoRow);
      rows.num_keys.mutable_data_ptr<int32_t>()[line] = static_cast<int32_t>(num_keys);
      rows.length.mutable_data_ptr<int32_t>()[line] = static_cast<int32_t>(length);
      rows.region.mutable_data_ptr<uint8_t>()[line] =
          regions.defined() ? std::min(largest_region, regions.const_data_ptr<uint8_t>()[line])
                            : static_cast<uint8_t>(part_of_position(position[line], length, tokens.num_regions));
    }
    rows.weight.mutable_data_ptr<double>()[sequence] =
        num_rows > 0 ? static_cast<double>(num_queries) / static_cast<double>(num_rows) : 1;
  }
  return rows;
}

at::Tensor key_regions(const AttentionTokens& tokens) {
  const at::Tensor region = tokens.key_region.defined()
                                ? tokens.key_region.clamp_max(tokens.num_regions - 1)
                                : part_of(tokens.key_position, keys_of_sequences(tokens), tokens.num_regions);
  return region.masked_fill(tokens.key_position < 0, 0);
}

}  // namespace moetap::analysis
