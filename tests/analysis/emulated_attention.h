#pragma once

#include <cstdint>

#include "analysis/attention/attention_device_kernels.h"

namespace moetap::analysis {

/// The attention kernels on tensors of the CPU, run thread by thread: see Note [Emulated warps].
class EmulatedAttentionKernels final : public AttentionDeviceKernels {
 public:
  /// seed: of the order in which threads and blocks run; results must not depend on it.
  explicit EmulatedAttentionKernels(uint64_t seed = 1) : seed_(seed) {}

  bool runs_on(c10::Device device) const override { return device.is_cpu(); }
  void measure(const AttentionCall& call, const AttentionTokens& tokens, const AttentionRows& rows,
               const at::Tensor& scratch) const override;

 private:
  uint64_t seed_;
};

}  // namespace moetap::analysis
