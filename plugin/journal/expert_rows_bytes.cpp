#include "plugin/journal/expert_rows_bytes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>

#include "plugin/formats/packed_reals.h"

namespace moetap::plugin {
namespace {

using analysis::ExpertRows;

/// Bits of the byte behind the sizes.
constexpr uint64_t kIsSelf = 1, kHasWeights = 2, kIsWeighted = 4;

std::span<const float> floats_of(const at::Tensor& values) {
  return {values.const_data_ptr<float>(), static_cast<size_t>(values.numel())};
}

/// Columns [begin, end) of values, one row behind the other. Distances are much larger than shares: they are packed on
/// their own, or many bits would go to exponents.
at::Tensor columns_of(const at::Tensor& values, int64_t begin, int64_t end) {
  return values.slice(1, begin, end).contiguous();
}

void check(bool fits) {
  if (!fits) throw std::runtime_error("a frame of the journal holds rows of attention that do not fit");
}

int64_t number_between(ByteReader& bytes, int64_t least, int64_t most) {
  const int64_t read = bytes.number();
  check(read >= least && read <= most);
  return read;
}

at::Tensor read_floats(ByteReader& bytes, int64_t rows, int64_t columns) {
  const at::Tensor values = at::empty({rows, columns}, at::kFloat);
  read_packed(bytes, {values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())});
  return values;
}

}  // namespace

void encode(ByteWriter& bytes, const ExpertRows& rows) {
  const int64_t count = rows.num_rows();
  bytes.count(static_cast<uint64_t>(count));
  bytes.count(static_cast<uint64_t>(rows.num_heads));
  bytes.count(static_cast<uint64_t>(rows.num_regions));
  bytes.count(static_cast<uint64_t>(rows.num_experts));
  bytes.count(static_cast<uint64_t>(rows.top_k));
  const std::span weight(rows.weight.const_data_ptr<double>(), static_cast<size_t>(count));
  const bool is_weighted = std::any_of(weight.begin(), weight.end(), [](double one) { return one != 1; });
  bytes.count((rows.self ? kIsSelf : 0) | (rows.weights.defined() ? kHasWeights : 0) | (is_weighted ? kIsWeighted : 0));
  write_packed(bytes, floats_of(columns_of(rows.values, 0, analysis::kExpertRowNoShares)));
  write_packed(bytes, floats_of(columns_of(rows.values, analysis::kExpertRowNoShares, rows.values.size(1))));
  for (int64_t i = 0; i < count; ++i) {
    bytes.number(rows.region.const_data_ptr<uint8_t>()[i]);
    bytes.number(rows.position.const_data_ptr<int32_t>()[i]);
    bytes.number(rows.num_keys.const_data_ptr<int32_t>()[i]);
    bytes.number(rows.length.const_data_ptr<int32_t>()[i]);
    if (is_weighted) bytes.real(weight[static_cast<size_t>(i)]);
  }
  const std::span ids(rows.selected.const_data_ptr<int32_t>(), static_cast<size_t>(rows.selected.numel()));
  for (const int32_t id : ids) bytes.number(id);
  if (rows.weights.defined()) write_packed(bytes, floats_of(rows.weights));
}

ExpertRows decode_expert_rows(ByteReader& bytes) {
  const auto size_below = [&](uint64_t most) {
    const uint64_t read = bytes.count();
    check(read <= most);
    return static_cast<int64_t>(read);
  };
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  const int64_t count = size_below(bytes.size());  // a row takes more than a byte
  ExpertRows rows;
  rows.num_heads = size_below(kMost);
  rows.num_regions = size_below(analysis::kMaxAttentionRegions);
  rows.num_experts = size_below(kMost);
  rows.top_k = size_below(kMost);
  const uint64_t flags = bytes.count();
  check(rows.num_heads > 0 && rows.num_regions > 0 && rows.num_experts > 0 &&
        count * rows.top_k <= static_cast<int64_t>(bytes.size()));
  rows.self = (flags & kIsSelf) != 0;
  const at::Tensor no_shares = read_floats(bytes, count, analysis::kExpertRowNoShares);
  const int64_t shares = analysis::num_expert_row_values(rows.num_regions) - analysis::kExpertRowNoShares;
  rows.values = at::cat({no_shares, read_floats(bytes, count, shares)}, 1);
  rows.region = at::empty({count}, at::kByte);
  rows.position = at::empty({count}, at::kInt);
  rows.num_keys = at::empty({count}, at::kInt);
  rows.length = at::empty({count}, at::kInt);
  rows.weight = at::ones({count}, at::kDouble);
  const auto most = static_cast<int64_t>(kMost);
  for (int64_t i = 0; i < count; ++i) {
    rows.region.mutable_data_ptr<uint8_t>()[i] = static_cast<uint8_t>(number_between(bytes, 0, rows.num_regions - 1));
    rows.position.mutable_data_ptr<int32_t>()[i] = static_cast<int32_t>(number_between(bytes, 0, most));
    rows.num_keys.mutable_data_ptr<int32_t>()[i] = static_cast<int32_t>(number_between(bytes, 1, most));
    rows.length.mutable_data_ptr<int32_t>()[i] = static_cast<int32_t>(number_between(bytes, 0, most));
    if ((flags & kIsWeighted) != 0) rows.weight.mutable_data_ptr<double>()[i] = bytes.real();
  }
  rows.selected = at::empty({count, rows.top_k}, at::kInt);
  auto* selected = rows.selected.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < rows.selected.numel(); ++i)
    selected[i] = static_cast<int32_t>(number_between(bytes, -most, most));
  if ((flags & kHasWeights) != 0) rows.weights = read_floats(bytes, count, rows.top_k);
  return rows;
}

}  // namespace moetap::plugin
