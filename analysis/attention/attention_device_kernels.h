#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "analysis/attention/attention_call.h"
#include "analysis/attention/attention_rows.h"

namespace moetap::analysis {

/// The kernels for attention calls of one type of device. Thread-safe.
class AttentionDeviceKernels {
 public:
  virtual ~AttentionDeviceKernels() = default;

  /// False for a device that the kernels were not compiled for.
  virtual bool runs_on(c10::Device device) const = 0;

  /// Fills the tensors of `rows`, which are there but for `matrix`; `position` is filled already. scratch: int64
  /// [attention_scratch_words], which may be used again behind what is enqueued. On the current stream of the call's
  /// device; does not block and does not allocate. The arguments are checked, and not refused
  /// (`attention_kernel_refusal`).
  virtual void measure(const AttentionCall& call, const AttentionTokens& tokens, const AttentionRows& rows,
                       const at::Tensor& scratch) const = 0;
};

}  // namespace moetap::analysis
