#pragma once

#include <cstdint>

#include "analysis/attention/attention_device_kernels.h"
#include "analysis/attention/attention_kernel_arguments.h"

namespace moetap::analysis {

/// The attention kernels on tensors of the CPU, run thread by thread: see Note [Emulated warps].
class EmulatedAttentionKernels final : public AttentionDeviceKernels {
 public:
  /// seed: of the order in which threads and blocks run; results must not depend on it. enough_blocks: as for
  /// `attention_kernel_launch`.
  explicit EmulatedAttentionKernels(uint64_t seed = 1, int64_t enough_blocks = kEnoughBlocks)
      : seed_(seed), enough_blocks_(enough_blocks) {}

  bool runs_on(c10::Device device) const override { return device.is_cpu(); }
  void measure(const AttentionCall& call, const AttentionTokens& tokens, const AttentionRows& rows,
               const at::Tensor& scratch) const override;
  void add_rows(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) const override;
  void add_experts(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                   const at::Tensor& selected, const at::Tensor& weights) const override;

 private:
  uint64_t seed_;
  int64_t enough_blocks_;
};

}  // namespace moetap::analysis
