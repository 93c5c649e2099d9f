#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "analysis/attention/attention_call.h"

namespace moetap::plugin {

/// What `moetap::attention` was given; see hooks/points/operator_schemas.h for the layouts. All tensors on one device.
struct ReportedAttention {
  at::Tensor query, key;             // undefined: the model makes the probabilities itself
  at::Tensor mask;                   // undefined: none
  at::Tensor probabilities, scores;  // undefined: not reported
  at::Tensor log_sum_exp;            // undefined: not reported
  std::optional<double> scale;       // empty: 1 / sqrt(D)
  bool causal = false;
  int64_t num_heads = 0;  // where heads and batch are one dimension
  std::string_view layout;
};

/// The same in the canonical layout: sequences, heads, queries, keys. Tensors share memory with the reported ones where
/// strides allow it. Does not wait for a device. Throws c10::Error whose message names what does not fit. Call it
/// without gradients.
analysis::AttentionCall to_canonical(const ReportedAttention& reported);

}  // namespace moetap::plugin
