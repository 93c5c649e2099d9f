#include "analysis/attention/attention_kernel.cuh"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>

#include "analysis/attention/attention_device_kernels.h"
#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/devices/cuda_kernels.h"

namespace moetap::analysis {
namespace {

using attention_kernel::ScoreSource;

constexpr int kThreadsOfRows = 32 * kMaxWarpsOfBlock;
// Blocks that a multiprocessor holds at once, so that some multiply while others wait for memory. Their 128 threads may
// use 128 registers each in the first pass, and 168 in the second, whose sums stay in registers. On processors with
// 100 KB of shared memory two fit.
constexpr int kBlocksOfSoftmax = 4, kBlocksOfRows = 3;
constexpr int kOldestArchitecture = 80;  // older ones have no product of bfloat16 and tf32

__global__ void __launch_bounds__(kThreadsOfTokens)
    attention_prepare_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::TokenPreparation(arguments).run();
}

template <ScoreSource kSource>
__global__ void __launch_bounds__(kThreadsOfRows, kBlocksOfSoftmax)
    attention_softmax_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::SoftmaxPass<kSource>(arguments).run();
}

__global__ void __launch_bounds__(kThreadsOfTokens)
    attention_combine_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::combine_softmax(arguments, arguments.probabilities.data != nullptr);
}

template <ScoreSource kSource>
__global__ void __launch_bounds__(kThreadsOfRows, kBlocksOfRows)
    attention_rows_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::RowPass<kSource>(arguments).run();
}

__global__ void __launch_bounds__(kThreadsOfTokens)
    attention_finish_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::LineFinish(arguments).run();
}

using Kernel = void (*)(AttentionKernelArguments);

void launch_kernel(Kernel kernel, const AttentionKernelArguments& arguments, int64_t blocks, int32_t threads,
                   int64_t shared_bytes) {
  if (blocks == 0) return;
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes),
           c10::cuda::getCurrentCUDAStream()>>>(arguments);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

class CudaAttentionKernels : public AttentionDeviceKernels {
 public:
  bool runs_on(c10::Device device) const override {
    static std::array<std::atomic<int>, 64> known{};  // 0: not known, 1: no, 2: yes
    std::atomic<int>& runs = known.at(static_cast<size_t>(device.index()));
    if (runs == 0) {
      const c10::cuda::CUDAGuard on_device(device);
      cudaFuncAttributes attributes{};
      const cudaError_t error = cudaFuncGetAttributes(&attributes, attention_rows_kernel<ScoreSource::kHalf>);
      if (error != cudaSuccess) static_cast<void>(cudaGetLastError());  // else the host's next check would report it
      // What may pass, as want of memory, is asked again with the next call.
      if (error != cudaSuccess && error != cudaErrorNoKernelImageForDevice) return false;
      // The driver may have compiled the code for older devices, which has no products.
      runs = error == cudaSuccess && attributes.ptxVersion >= kOldestArchitecture ? 2 : 1;
    }
    return runs == 2;
  }

  void measure(const AttentionCall& call, const AttentionTokens& tokens, const AttentionRows& rows,
               const at::Tensor& scratch) const override {
    const AttentionShape shape = check_attention(call, tokens);
    const c10::cuda::CUDAGuard on_device(tokens.query_position.device());
    const AttentionKernelLaunch launch = attention_kernel_launch(call, tokens, shape, rows, scratch);
    const AttentionKernelArguments& arguments = launch.arguments;
    const int32_t threads_of_rows = 32 * arguments.warps_of_block;
    launch_kernel(attention_prepare_kernel, arguments, launch.prepare_blocks, kThreadsOfTokens,
                  attention_kernel::TokenPreparation::kSharedBytes);
    attention_kernel::for_source(arguments, [&](auto source) {
      launch_kernel(attention_softmax_kernel<source.value>, arguments, launch.softmax_blocks, threads_of_rows,
                    launch.softmax_bytes);
      launch_kernel(attention_combine_kernel, arguments, launch.combine_blocks, kThreadsOfTokens, 0);
      launch_kernel(attention_rows_kernel<source.value>, arguments, launch.value_blocks, threads_of_rows,
                    launch.value_bytes);
    });
    launch_kernel(attention_finish_kernel, arguments, launch.finish_blocks, kThreadsOfTokens, 0);
  }
};

}  // namespace

const AttentionDeviceKernels& cuda_attention_kernels() {
  static const auto* kernels = new CudaAttentionKernels;
  return *kernels;
}

}  // namespace moetap::analysis
