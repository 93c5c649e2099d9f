#pragma once

#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/attention/attention_sums_kernel_arguments.h"
#include "analysis/devices/known_devices.h"

// Kernels of CUDA that are compiled on their own, so that they are compiled at once: on the current stream of the
// current device; they do not block. Throw c10::Error if a launch fails.
namespace moetap::analysis {

/// Behind `combine`.
void launch_attention_matrix(const AttentionKernelLaunch& launch);
/// As `load_kernels` of loaded_kernels.cuh.
KernelsRun load_attention_matrix(c10::Device device, int oldest);

void launch_row_sums(const AttentionSumsLaunch& launch);
void launch_expert_sums(const AttentionSumsLaunch& launch);
KernelsRun load_attention_sums(c10::Device device, int oldest);

}  // namespace moetap::analysis
