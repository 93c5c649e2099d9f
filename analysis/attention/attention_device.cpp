#include "analysis/attention/attention_device.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <mutex>

#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/attention/attention_sums_kernel_arguments.h"
#include "analysis/attention/attention_sums_paths.h"
#include "analysis/devices/device_kernels.h"

namespace moetap::analysis {
namespace {

struct Refusals {
  std::mutex mutex;  // guards counts
  std::map<std::string, int64_t> counts;
};

/// Never destroyed: forwards may run while the process exits.
Refusals& refusals() {
  static auto* refusals = new Refusals;
  return *refusals;
}

void count_refusal(const char* reason) {
  const std::lock_guard lock(refusals().mutex);
  ++refusals().counts[reason];
}

const AttentionDeviceKernels* kernels_of(at::Device device) {
  const DeviceKernels* all = device_kernels(device.type());
  return all == nullptr ? nullptr : all->attention();
}

const char* refusal_of(const AttentionDeviceKernels& kernels, at::Device device, const char* refusal) {
  return refusal == nullptr && !kernels.runs_on(device) ? "no kernels were compiled for the device" : refusal;
}

/// The kernels of the device, unless one of them cannot take the call; null: operations do it.
const AttentionDeviceKernels* kernels_of(at::Device device, const char* refusal) {
  const AttentionDeviceKernels* kernels = kernels_of(device);
  if (kernels == nullptr) return nullptr;
  refusal = refusal_of(*kernels, device, refusal);
  if (refusal == nullptr) return kernels;
  count_refusal(refusal);
  return nullptr;
}

}  // namespace

AttentionRows measure_with_kernels(const AttentionDeviceKernels& kernels, const AttentionCall& call,
                                   const AttentionTokens& tokens, const AttentionOptions& options) {
  const AttentionShape shape = check_attention(call, tokens);
  AttentionRows rows;
  rows.num_sequences = shape.num_sequences;
  rows.num_queries = shape.num_queries;
  rows.num_heads = shape.num_heads;
  rows.num_regions = tokens.num_regions;
  rows.self = tokens.self;
  rows.sampled = tokens.sampled.defined();
  const int64_t lines = rows.num_lines();
  const auto empty = [&](at::IntArrayRef sizes, at::ScalarType type) {
    return at::empty(sizes, tokens.query_position.options().dtype(type));
  };
  rows.line = empty({lines}, at::kByte);
  rows.values = empty({lines, rows.num_columns()}, at::kFloat);
  rows.bins = empty({lines, kNumAttentionBins}, at::kFloat);
  rows.region = empty({lines}, at::kByte);
  rows.position = tokens.query_position.reshape({lines}).contiguous();
  rows.num_keys = empty({lines}, at::kInt);
  rows.length = empty({lines}, at::kInt);
  rows.weight = empty({shape.num_sequences}, at::kDouble);
  rows.head_high = empty({shape.num_sequences, shape.num_heads, kNumHeadSums}, at::kLong);
  rows.head_low = empty({shape.num_sequences, shape.num_heads, kNumHeadSums}, at::kLong);
  rows.head_max_score = empty({shape.num_sequences, shape.num_heads}, at::kLong);
  if (options.matrix) {
    rows.matrix = at::zeros({shape.num_sequences, shape.num_queries, shape.num_keys}, rows.values.options());
  }
  kernels.measure(call, tokens, rows, empty({attention_scratch_words(shape)}, at::kLong));
  return rows;
}

std::string why_not_by_kernels(const AttentionCall& call, const AttentionTokens& tokens) {
  const at::Device device = tokens.query_position.device();
  const AttentionDeviceKernels* kernels = kernels_of(device);
  if (kernels == nullptr) return "the device has none";
  const char* refusal = refusal_of(*kernels, device, attention_kernel_refusal(call, check_attention(call, tokens)));
  return refusal == nullptr ? "" : refusal;
}

AttentionRows measure_on_device(const AttentionCall& call, const AttentionTokens& tokens,
                                const AttentionOptions& options) {
  const char* refusal = attention_kernel_refusal(call, check_attention(call, tokens));
  const AttentionDeviceKernels* kernels = kernels_of(tokens.query_position.device(), refusal);
  return kernels == nullptr ? measure_with_operations(call, tokens, options)
                            : measure_with_kernels(*kernels, call, tokens, options);
}

void add_rows_on_device(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) {
  const auto* kernels = kernels_of(sums.words.device(), attention_sums_kernel_refusal(rows, row, {}, {}));
  if (kernels == nullptr) return add_rows_with_operations(sums, rows, row_of_sequences(sums, rows, row));
  kernels->add_rows(sums, rows, row);
}

void add_experts_on_device(AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                           const at::Tensor& selected, const at::Tensor& weights) {
  const auto* kernels = kernels_of(sums.words.device(), attention_sums_kernel_refusal(rows, row, selected, weights));
  if (kernels == nullptr) {
    return add_experts_with_operations(sums, rows, row_of_sequences(sums, rows, row), selected.to(at::kLong), weights);
  }
  kernels->add_experts(sums, rows, row, selected, weights);
}

std::map<std::string, int64_t> refused_attention_calls() {
  const std::lock_guard lock(refusals().mutex);
  return refusals().counts;
}

}  // namespace moetap::analysis
