#include "tests/support/cuda_device.h"

#include <ATen/ATen.h>
#include <dlfcn.h>

#include <filesystem>

#include "analysis/devices/device_kernels.h"

namespace moetap::analysis {
namespace {

/// The library lies in the folder of the rest of LibTorch.
void load_torch_cuda() {
  Dl_info torch{};
  if (::dladdr(reinterpret_cast<const void*>(&at::globalContext), &torch) == 0) return;
  const auto library = std::filesystem::path(torch.dli_fname).parent_path() / "libtorch_cuda.so";
  if (std::filesystem::exists(library)) ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
}

std::string look_for_cuda() {
  load_torch_cuda();
  if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0) return kNoCudaDevice;
  return device_kernels(at::kCUDA) != nullptr ? "" : "no kernels: " + cuda_kernels_error();
}

}  // namespace

std::string missing_cuda() {
  static const std::string missing = look_for_cuda();
  return missing;
}

}  // namespace moetap::analysis
