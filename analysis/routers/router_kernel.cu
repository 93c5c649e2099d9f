#include "analysis/routers/router_kernel.cuh"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>

#include "analysis/devices/cuda_kernels.h"
#include "analysis/devices/loaded_kernels.cuh"
#include "analysis/routers/router_kernel_arguments.h"
#include "analysis/routers/router_kernels.h"

namespace moetap::analysis {
namespace {

// The largest block: see router_kernel_launch. Two blocks or more fit a multiprocessor, so that one works while the
// other waits for memory.
constexpr int kMaxThreads = 256;
constexpr int kOldestArchitecture = 75;  // of the PTX: see cmake/MoetapCuda.cmake

template <int kExperts>
__global__ void __launch_bounds__(kExperts <= 8 ? kMaxThreads : kMaxThreads / 2)
    observe_router_kernel(const __grid_constant__ RouterKernelArguments arguments) {
  router_kernel::RouterMeter<kExperts>(arguments).run();
}

using Kernel = void (*)(RouterKernelArguments);

Kernel kernel_of(int32_t experts_of_lane) {
  switch (experts_of_lane) {
    case 1:
      return observe_router_kernel<1>;
    case 2:
      return observe_router_kernel<2>;
    case 4:
      return observe_router_kernel<4>;
    case 8:
      return observe_router_kernel<8>;
    case 16:
      return observe_router_kernel<16>;
    case 32:
      return observe_router_kernel<32>;
    default:
      TORCH_INTERNAL_ASSERT(false, "a lane holds 1 to 32 experts, got ", experts_of_lane);
  }
}

/// Asked once a device, since a query takes microseconds.
int64_t num_processors(c10::DeviceIndex device) {
  static std::array<std::atomic<int>, 64> known{};  // 0: not asked
  std::atomic<int>& number = known.at(static_cast<size_t>(device));
  if (number == 0) {
    int value = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device));
    number = value;
  }
  return number;
}

class CudaRouterKernels : public RouterKernels {
 public:
  bool runs_on(c10::Device device) const override {
    static KnownDevices known;
    return known.run_on(device, [&] {
      return load_kernels(device, kOldestArchitecture,
                          {reinterpret_cast<const void*>(observe_router_kernel<1>),
                           reinterpret_cast<const void*>(observe_router_kernel<2>),
                           reinterpret_cast<const void*>(observe_router_kernel<4>),
                           reinterpret_cast<const void*>(observe_router_kernel<8>),
                           reinterpret_cast<const void*>(observe_router_kernel<16>),
                           reinterpret_cast<const void*>(observe_router_kernel<32>)});
    });
  }

  void observe(const RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs,
               const TransitionFrom& transition) const override {
    const c10::cuda::CUDAGuard on_device(call.selected.device());
    const RouterKernelLaunch launch =
        router_kernel_launch(sums, call, rows, outputs, transition, num_processors(call.selected.device().index()));
    if (launch.num_blocks == 0) return;
    kernel_of(launch.experts_of_lane)<<<static_cast<unsigned>(launch.num_blocks),
                                        static_cast<unsigned>(launch.threads_of_block),
                                        static_cast<size_t>(launch.shared_bytes), c10::cuda::getCurrentCUDAStream()>>>(
        launch.arguments);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace

const RouterKernels& cuda_router_kernels() {
  static const auto* kernels = new CudaRouterKernels;
  return *kernels;
}

}  // namespace moetap::analysis
