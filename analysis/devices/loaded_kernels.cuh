#pragma once

#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <initializer_list>

#include "analysis/devices/known_devices.h"

namespace moetap::analysis {

/// Loads kernels for a device, which CUDA else does when they are launched first, perhaps in a capture, which forbids
/// it. `oldest`: the least compute capability, times 10, of code that does the work.
inline KernelsRun load_kernels(c10::Device device, int oldest, std::initializer_list<const void*> kernels) {
  const c10::cuda::CUDAGuard on_device(device);
  for (const void* kernel : kernels) {
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) {
      static_cast<void>(cudaGetLastError());  // else the host's next check would report it
      return error == cudaErrorNoKernelImageForDevice ? KernelsRun::kNo : KernelsRun::kNotKnown;
    }
    // The driver may have compiled the code for older devices.
    if (attributes.ptxVersion < oldest) return KernelsRun::kNo;
  }
  return KernelsRun::kYes;
}

}  // namespace moetap::analysis
