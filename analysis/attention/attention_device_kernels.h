#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "analysis/attention/attention_call.h"
#include "analysis/attention/attention_rows.h"
#include "analysis/attention/attention_sums.h"

namespace moetap::analysis {

/// The kernels for attention calls of one type of device. Thread-safe.
class AttentionDeviceKernels {
 public:
  virtual ~AttentionDeviceKernels() = default;

  /// False for a device that the kernels were not compiled for.
  virtual bool runs_on(c10::Device device) const = 0;

  /// Fills the tensors of `rows`, which are there; `position` is filled already, `matrix` is undefined or zeros.
  /// scratch: int64 [attention_scratch_words], which may be used again behind what is enqueued. On the current stream
  /// of the call's device; does not block and does not allocate. The arguments are checked, and not refused
  /// (`attention_kernel_refusal`).
  virtual void measure(const AttentionCall& call, const AttentionTokens& tokens, const AttentionRows& rows,
                       const at::Tensor& scratch) const = 0;

  /// As the functions of attention_sums.h, on the current stream of the sums' device; they neither block nor allocate.
  /// The arguments are checked, and not refused (`attention_sums_kernel_refusal`).
  virtual void add_rows(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) const = 0;
  virtual void add_experts(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                           const at::Tensor& selected, const at::Tensor& weights) const = 0;
};

}  // namespace moetap::analysis
