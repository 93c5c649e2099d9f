#include "analysis/attention/attention_kernel.cuh"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "analysis/attention/attention_device_kernels.h"
#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/attention/attention_kernel_launches.h"
#include "analysis/attention/attention_paths.h"
#include "analysis/devices/cuda_kernels.h"
#include "analysis/devices/loaded_kernels.cuh"

namespace moetap::analysis {
namespace {

using attention_kernel::ScoreSource;

constexpr int kThreadsOfRows = 32 * kMaxWarpsOfBlock;
// Blocks that a multiprocessor holds at once, so that some multiply while others wait for memory. Their 128 threads may
// use 168 registers each then, which both passes need: scores and sums stay there. On processors with 100 KB of shared
// memory two fit.
constexpr int kBlocksOfProcessor = 3;
constexpr int kOldestArchitecture = 80;  // older ones have no product of bfloat16 and tf32

__global__ void __launch_bounds__(kThreadsOfTokens)
    attention_prepare_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::TokenPreparation(arguments).run();
}

template <ScoreSource kSource>
__global__ void __launch_bounds__(kThreadsOfRows, kBlocksOfProcessor)
    attention_softmax_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::SoftmaxPass<kSource>(arguments).run();
}

__global__ void __launch_bounds__(kThreadsOfTokens)
    attention_combine_kernel(const __grid_constant__ AttentionKernelArguments arguments) {
  attention_kernel::combine_softmax(arguments, arguments.probabilities.data != nullptr);
}

template <ScoreSource kSource>
__global__ void __launch_bounds__(kThreadsOfRows, kBlocksOfProcessor)
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

template <ScoreSource kSource>
KernelsRun load_passes(c10::Device device, int oldest) {
  return load_kernels(device, oldest,
                      {reinterpret_cast<const void*>(attention_softmax_kernel<kSource>),
                       reinterpret_cast<const void*>(attention_rows_kernel<kSource>)});
}

KernelsRun load_attention_kernels(c10::Device device, int oldest) {
  for (const auto load : {load_passes<ScoreSource::kHalf>, load_passes<ScoreSource::kBFloat16>,
                          load_passes<ScoreSource::kFloat>, load_passes<ScoreSource::kGiven>}) {
    const KernelsRun run = load(device, oldest);
    if (run != KernelsRun::kYes) return run;
  }
  return load_kernels(
      device, oldest,
      {reinterpret_cast<const void*>(attention_prepare_kernel), reinterpret_cast<const void*>(attention_combine_kernel),
       reinterpret_cast<const void*>(attention_finish_kernel)});
}

class CudaAttentionKernels : public AttentionDeviceKernels {
 public:
  bool runs_on(c10::Device device) const override {
    static KnownDevices known;
    return known.run_on(device, [&] {
      for (const auto load : {load_attention_kernels, load_attention_matrix, load_attention_sums}) {
        const KernelsRun run = load(device, kOldestArchitecture);
        if (run != KernelsRun::kYes) return run;
      }
      return KernelsRun::kYes;
    });
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
    launch_attention_matrix(launch);
    launch_kernel(attention_finish_kernel, arguments, launch.finish_blocks, kThreadsOfTokens, 0);
  }

  void add_rows(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row) const override {
    const c10::cuda::CUDAGuard on_device(sums.words.device());
    launch_row_sums(row_sums_launch(sums, rows, row));
  }

  void add_experts(const AttentionSums& sums, const AttentionRows& rows, const at::Tensor& row,
                   const at::Tensor& selected, const at::Tensor& weights) const override {
    const c10::cuda::CUDAGuard on_device(sums.words.device());
    launch_expert_sums(expert_sums_launch(sums, rows, row, selected, weights));
  }
};

}  // namespace

const AttentionDeviceKernels& cuda_attention_kernels() {
  static const auto* kernels = new CudaAttentionKernels;
  return *kernels;
}

}  // namespace moetap::analysis
