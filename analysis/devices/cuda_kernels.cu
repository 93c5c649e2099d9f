#include "analysis/devices/cuda_kernels.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "analysis/devices/device_kernels.h"

namespace moetap::analysis {
namespace {

__global__ void count_one_kernel(int64_t* counter) {
  *counter += 1;
}

class CudaKernels : public DeviceKernels {
 public:
  const RouterKernels& routers() const override { return cuda_router_kernels(); }
  const AttentionDeviceKernels* attention() const override { return &cuda_attention_kernels(); }

  bool is_capturing(c10::Device device) const override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    C10_CUDA_CHECK(cudaStreamIsCapturing(c10::cuda::getCurrentCUDAStream(device.index()), &status));
    return status != cudaStreamCaptureStatusNone;
  }

  int leave_captures() const override {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    C10_CUDA_CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
    return mode;
  }

  void return_to_captures(int before) const noexcept override {
    auto mode = static_cast<cudaStreamCaptureMode>(before);
    C10_CUDA_CHECK_WARN(cudaThreadExchangeStreamCaptureMode(&mode));
  }

  void count_one(const at::Tensor& counter) const override {
    const c10::cuda::CUDAGuard on_device(counter.device());
    count_one_kernel<<<1, 1, 0, c10::cuda::getCurrentCUDAStream()>>>(counter.mutable_data_ptr<int64_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace moetap::analysis

/// libmoetap looks this function up by its name: see device_kernels.cpp. Never destroyed.
extern "C" __attribute__((visibility("default"))) const moetap::analysis::DeviceKernels* moetap_cuda_kernels() {
  static const auto* kernels = new moetap::analysis::CudaKernels;
  return kernels;
}
