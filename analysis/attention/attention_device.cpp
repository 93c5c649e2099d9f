#include "analysis/attention/attention_device.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <mutex>

#include "analysis/attention/attention_kernel_arguments.h"
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

}  // namespace

AttentionRows measure_with_kernels(const AttentionDeviceKernels& kernels, const AttentionCall& call,
                                   const AttentionTokens& tokens, const AttentionOptions& /*options*/) {
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
  kernels.measure(call, tokens, rows, empty({attention_scratch_words(shape)}, at::kLong));
  return rows;
}

AttentionRows measure_on_device(const AttentionCall& call, const AttentionTokens& tokens,
                                const AttentionOptions& options) {
  const at::Device device = tokens.query_position.device();
  const DeviceKernels* all = device_kernels(device.type());
  const AttentionDeviceKernels* kernels = all == nullptr ? nullptr : all->attention();
  if (kernels == nullptr) return measure_with_operations(call, tokens, options);
  const char* refusal = attention_kernel_refusal(call, check_attention(call, tokens), options);
  if (refusal == nullptr && !kernels->runs_on(device)) refusal = "no kernels were compiled for the device";
  if (refusal == nullptr) return measure_with_kernels(*kernels, call, tokens, options);
  count_refusal(refusal);
  return measure_with_operations(call, tokens, options);
}

std::map<std::string, int64_t> refused_attention_calls() {
  const std::lock_guard lock(refusals().mutex);
  return refusals().counts;
}

}  // namespace moetap::analysis
