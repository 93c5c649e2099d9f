#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "analysis/attention/attention_kernel.cuh"
#include "analysis/attention/attention_kernel_launches.h"
#include "analysis/attention/attention_kernel_matrix.cuh"
#include "analysis/devices/loaded_kernels.cuh"

namespace moetap::analysis {
namespace {

// Scores and their sums over heads stay in registers: 168 of them, as in the other passes.
constexpr int kThreadsOfRows = 32 * kMaxWarpsOfBlock, kBlocksOfProcessor = 3;

template <attention_kernel::ScoreSource kSource>
__global__ void __launch_bounds__(kThreadsOfRows, kBlocksOfProcessor)
    attention_matrix_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::MatrixPass<kSource>(arguments).run();
}

}  // namespace

void launch_attention_matrix(const AttentionKernelLaunch& launch) {
  if (launch.matrix_blocks == 0) return;
  attention_kernel::for_source(launch.arguments, [&](auto source) {
    attention_matrix_kernel<source.value>
        <<<static_cast<unsigned>(launch.matrix_blocks), static_cast<unsigned>(32 * launch.arguments.warps_of_block),
           static_cast<size_t>(launch.softmax_bytes), c10::cuda::getCurrentCUDAStream()>>>(launch.arguments);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

KernelsRun load_attention_matrix(c10::Device device, int oldest) {
  using attention_kernel::ScoreSource;
  return load_kernels(device, oldest,
                      {reinterpret_cast<const void*>(attention_matrix_kernel<ScoreSource::kHalf>),
                       reinterpret_cast<const void*>(attention_matrix_kernel<ScoreSource::kBFloat16>),
                       reinterpret_cast<const void*>(attention_matrix_kernel<ScoreSource::kFloat>),
                       reinterpret_cast<const void*>(attention_matrix_kernel<ScoreSource::kGiven>)});
}

}  // namespace moetap::analysis
