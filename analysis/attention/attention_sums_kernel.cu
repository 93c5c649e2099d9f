#include "analysis/attention/attention_sums_kernel.cuh"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "analysis/attention/attention_kernel_launches.h"
#include "analysis/devices/loaded_kernels.cuh"

namespace moetap::analysis {
namespace {

__global__ void __launch_bounds__(kThreadsOfSums)
    attention_row_sums_kernel(const __grid_constant__ AttentionSumsArguments arguments) {
  attention_kernel::RowSumsAdder(arguments).run();
}

__global__ void __launch_bounds__(kThreadsOfSums)
    attention_expert_sums_kernel(const __grid_constant__ AttentionSumsArguments arguments) {
  attention_kernel::ExpertSumsAdder(arguments).run();
}

void launch_kernel(void (*kernel)(AttentionSumsArguments), const AttentionSumsLaunch& launch) {
  if (launch.blocks == 0) return;
  kernel<<<static_cast<unsigned>(launch.blocks), kThreadsOfSums, static_cast<size_t>(launch.shared_bytes),
           c10::cuda::getCurrentCUDAStream()>>>(launch.arguments);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

KernelsRun load_attention_sums(c10::Device device, int oldest) {
  return load_kernels(device, oldest,
                      {reinterpret_cast<const void*>(attention_row_sums_kernel),
                       reinterpret_cast<const void*>(attention_expert_sums_kernel)});
}

void launch_row_sums(const AttentionSumsLaunch& launch) {
  launch_kernel(attention_row_sums_kernel, launch);
}

void launch_expert_sums(const AttentionSumsLaunch& launch) {
  launch_kernel(attention_expert_sums_kernel, launch);
}

}  // namespace moetap::analysis
