#include "analysis/attention/expert_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

namespace moetap::analysis {
namespace {

/// The columns of AttentionRows::values that are kept, but for the regions, which follow.
std::array<int64_t, 7> kept_columns(int64_t num_regions) {
  return {kDistance, received_column(num_regions), kEntropy, kDiagonal, kDiagonalExpected, kFar, kFarExpected};
}

void check_alike(const ExpertRows& a, const ExpertRows& b) {
  TORCH_CHECK(a.num_heads == b.num_heads && a.num_regions == b.num_regions && a.num_experts == b.num_experts &&
                  a.self == b.self && a.top_k == b.top_k && a.weights.defined() == b.weights.defined(),
              "rows of ", a.num_heads, " heads, ", a.num_regions, " regions, top-", a.top_k, " and of ", b.num_heads,
              " heads, ", b.num_regions, " regions, top-", b.top_k, " are of different layers");
}

}  // namespace

ExpertRows expert_rows(const AttentionRows& rows, int64_t num_experts, const at::Tensor& line,
                       const at::Tensor& selected, const at::Tensor& weights) {
  TORCH_CHECK(rows.line.is_cpu() && line.dim() == 1 && selected.dim() == 2 && selected.size(0) == line.size(0),
              "expert_rows: rows must be on the host, line [T] and selected [T, K], got ", line.sizes(), " and ",
              selected.sizes());
  // Only rows with values are summed by expert.
  const at::Tensor of_rows = rows.line.index_select(0, line).eq(static_cast<int64_t>(kRow)).nonzero().squeeze(1);
  const at::Tensor lines = line.index_select(0, of_rows);
  ExpertRows made;
  made.num_heads = rows.num_heads;
  made.num_regions = rows.num_regions;
  made.num_experts = num_experts;
  made.self = rows.self;
  made.top_k = selected.size(1);
  const int64_t count = lines.size(0), columns = num_expert_row_values(rows.num_regions);
  const auto kept = kept_columns(rows.num_regions);
  made.values = at::empty({count, columns}, at::kFloat);
  auto* to = made.values.mutable_data_ptr<float>();
  const auto* line_of = lines.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i, to += columns) {
    const float* values = rows.values.const_data_ptr<float>() + line_of[i] * rows.num_columns();
    const float* bins = rows.bins.const_data_ptr<float>() + line_of[i] * kNumAttentionBins;
    float* next = to;
    for (const int64_t column : kept) *next++ = values[column];
    next = std::copy_n(values + kFirstRegion, rows.num_regions, next);
    std::copy_n(bins, kNumAttentionBins, next);
  }
  made.region = rows.region.index_select(0, lines);
  made.position = rows.position.index_select(0, lines);
  made.num_keys = rows.num_keys.index_select(0, lines);
  made.length = rows.length.index_select(0, lines);
  made.weight = rows.weight.index_select(0, lines.floor_divide(std::max<int64_t>(1, rows.num_queries)));
  made.selected = selected.index_select(0, of_rows).to(at::kInt);
  if (weights.defined()) made.weights = weights.index_select(0, of_rows).to(at::kFloat);
  return made;
}

void add_experts(AttentionSums& sums, const ExpertRows& rows) {
  if (!sums.defined()) {
    sums = empty_attention_sums(rows.num_heads, rows.num_regions, rows.self, rows.num_experts, /*num_rows=*/1);
  }
  const int64_t count = rows.num_rows();
  if (count == 0) return;
  const auto kept = kept_columns(rows.num_regions);
  AttentionRows lines;
  lines.num_sequences = count;
  lines.num_queries = 1;
  lines.num_heads = rows.num_heads;
  lines.num_regions = rows.num_regions;
  lines.self = rows.self;
  lines.line = at::full({count}, static_cast<int64_t>(kRow), at::kByte);
  lines.values = at::zeros({count, lines.num_columns()}, at::kFloat);
  lines.bins = at::empty({count, kNumAttentionBins}, at::kFloat);
  auto* values = lines.values.mutable_data_ptr<float>();
  auto* bins = lines.bins.mutable_data_ptr<float>();
  const auto* from = rows.values.const_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i, values += lines.num_columns(), bins += kNumAttentionBins) {
    for (const int64_t column : kept) values[column] = *from++;
    std::copy_n(from, rows.num_regions, values + kFirstRegion);
    from += rows.num_regions;
    std::copy_n(from, kNumAttentionBins, bins);
    from += kNumAttentionBins;
  }
  lines.region = rows.region;
  lines.position = rows.position;
  lines.num_keys = rows.num_keys;
  lines.length = rows.length;
  lines.weight = rows.weight;
  add_experts(sums, lines, at::zeros({count}, at::kLong), rows.selected.to(at::kLong), rows.weights);
}

ExpertRows joined(const std::vector<ExpertRows>& rows) {
  if (rows.size() == 1) return rows[0];
  ExpertRows all;
  if (rows.empty()) return all;
  all = rows[0];
  std::vector<at::Tensor> parts(rows.size());
  for (const auto member : {&ExpertRows::values, &ExpertRows::region, &ExpertRows::position, &ExpertRows::num_keys,
                            &ExpertRows::length, &ExpertRows::weight, &ExpertRows::selected, &ExpertRows::weights}) {
    for (size_t i = 0; i < rows.size(); ++i) {
      check_alike(rows[0], rows[i]);
      parts[i] = rows[i].*member;
    }
    if (parts[0].defined()) all.*member = at::cat(parts);
  }
  return all;
}

bool are_shorter_than_sums(int64_t num_rows, int64_t top_k, int64_t num_regions, int64_t num_experts) {
  // Bytes in the journal: packed floats and small integers against pairs of limbs.
  constexpr int64_t kBytesOfFloat = 4, kBytesOfSlot = 6, kBytesOfIntegers = 8, kBytesOfSum = 8;
  const int64_t of_rows =
      num_rows * (kBytesOfFloat * num_expert_row_values(num_regions) + kBytesOfIntegers + kBytesOfSlot * top_k);
  const int64_t of_slot = kNumExpertScalars + num_regions + 2 * kNumPlaneRegions + kPatternBins + 1;
  const int64_t of_expert = AttentionSumsLayout{1, num_regions, num_experts, 1}.expert_sums();
  const int64_t of_sums = kBytesOfSum * std::min(num_rows * top_k * of_slot, num_experts * of_expert);
  return of_rows <= of_sums;
}

}  // namespace moetap::analysis
