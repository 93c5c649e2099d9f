#include "analysis/attention/attention_sums_kernel_arguments.h"

#include <algorithm>
#include <limits>

namespace moetap::analysis {
namespace {

/// Blocks that keep a large device busy.
constexpr int64_t kBlocksOfExperts = 512;
/// Fewer slots are not worth a block: it looks at all of them, and adds to the memory of its expert.
constexpr int64_t kLeastSlotsOfPart = 1024;

constexpr int64_t parts_of(int64_t number, int64_t size) {
  return (number + size - 1) / size;
}

int32_t narrow(int64_t value) {
  TORCH_INTERNAL_ASSERT(value >= 0 && value <= std::numeric_limits<int32_t>::max(), "attention sums: ", value);
  return static_cast<int32_t>(value);
}

AttentionSumsArguments arguments_of(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) {
  AttentionSumsArguments to;
  to.line = rows.line.const_data_ptr<uint8_t>();
  to.values = rows.values.const_data_ptr<float>();
  to.bins = rows.bins.const_data_ptr<float>();
  to.region = rows.region.const_data_ptr<uint8_t>();
  to.position = rows.position.const_data_ptr<int32_t>();
  to.num_keys = rows.num_keys.const_data_ptr<int32_t>();
  to.length = rows.length.const_data_ptr<int32_t>();
  to.weight = rows.weight.const_data_ptr<double>();
  to.head_high = rows.head_high.const_data_ptr<int64_t>();
  to.head_low = rows.head_low.const_data_ptr<int64_t>();
  to.head_max_score = rows.head_max_score.const_data_ptr<int64_t>();
  to.num_sequences = narrow(rows.num_sequences);
  to.num_queries = narrow(rows.num_queries);
  to.sampled = rows.sampled;
  if (row.defined()) to.row = row.const_data_ptr<int64_t>();
  to.layout = sums.layout();
  to.words = sums.words.mutable_data_ptr<int64_t>();
  return to;
}

AttentionElement element_of(at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return AttentionElement::kHalf;
    case at::kBFloat16:
      return AttentionElement::kBFloat16;
    case at::kDouble:
      return AttentionElement::kDouble;
    default:
      return AttentionElement::kFloat;
  }
}

bool has_element(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16 || type == at::kDouble;
}

}  // namespace

const char* attention_sums_kernel_refusal(const AttentionRows& rows, const at::Tensor& row, const at::Tensor& selected,
                                          const at::Tensor& weights) {
  if (row.defined() && row.size(0) != rows.num_sequences) return "each line has a row of its own";
  if (row.defined() && !row.is_contiguous()) return "rows that lie apart";
  for (const at::Tensor& of_slots : {selected, weights}) {
    if (of_slots.defined() && !of_slots.is_contiguous()) return "ids or weights that lie apart";
  }
  if (weights.defined() && !has_element(weights.scalar_type())) {
    return "weights that are not half, bfloat16, float or double";
  }
  for (const at::Tensor* tensor : {&rows.line, &rows.values, &rows.bins, &rows.region, &rows.position, &rows.num_keys,
                                   &rows.length, &rows.weight, &rows.head_high, &rows.head_low, &rows.head_max_score}) {
    if (!tensor->is_contiguous()) return "values of rows that lie apart";
  }
  return nullptr;
}

AttentionSumsLaunch row_sums_launch(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) {
  AttentionSumsLaunch launch{arguments_of(sums, rows, row)};
  AttentionSumsArguments& to = launch.arguments;
  to.parts = narrow(parts_of(rows.num_queries, kLinesOfWarp));
  const int64_t of_variances = rows.sampled ? 1 : 0;
  launch.blocks = parts_of(rows.num_sequences * (to.parts + of_variances), kWarpsOfSums);
  launch.shared_bytes = 8 * kWarpsOfSums * flow_words(to.layout);
  return launch;
}

AttentionSumsLaunch expert_sums_launch(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                                       const at::Tensor& selected, const at::Tensor& weights) {
  AttentionSumsLaunch launch{arguments_of(sums, rows, row)};
  AttentionSumsArguments& to = launch.arguments;
  to.selected = selected.const_data_ptr();
  to.selected_is_long = selected.scalar_type() == at::kLong;
  if (weights.defined()) {
    to.weights.data = weights.const_data_ptr();
    to.weights.type = element_of(weights.scalar_type());
  }
  to.top_k = narrow(selected.size(1));
  to.num_slots = selected.numel();
  const int64_t enough = parts_of(kBlocksOfExperts, sums.num_experts);
  to.parts = narrow(std::clamp<int64_t>(parts_of(to.num_slots, kLeastSlotsOfPart), 1, enough));
  to.slots_of_part = parts_of(to.num_slots, to.parts);
  launch.blocks = sums.num_experts * to.parts;
  launch.shared_bytes = 8 * kWarpsOfSums * 2 * to.layout.expert_sums();
  return launch;
}

}  // namespace moetap::analysis
