#include "devices.h"

#include <ATen/ATen.h>
#include <dlfcn.h>

#include <algorithm>
#include <filesystem>

#include "analysis/device_kernels.h"

namespace moetap::analysis {
namespace {

/// LibTorch's CUDA side, which programs of ours are not linked with, lies beside the rest of it.
void load_torch_cuda() {
  Dl_info torch{};
  if (::dladdr(reinterpret_cast<const void*>(&at::globalContext), &torch) == 0) return;
  const auto library = std::filesystem::path(torch.dli_fname).parent_path() / "libtorch_cuda.so";
  if (std::filesystem::exists(library)) ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
}

std::string look_for_cuda() {
  load_torch_cuda();
  if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0) return "no CUDA device";
  return device_kernels(at::kCUDA) != nullptr ? "" : "no kernels: " + cuda_kernels_error();
}

}  // namespace

std::string missing_cuda() {
  static const std::string missing = look_for_cuda();
  return missing;
}

std::string missing_emulation() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return "sanitizers do not know the stacks of emulated threads";
#else
  return "";
#endif
}

at::Tensor to_device(const at::Tensor& tensor, at::Device device) {
  int64_t span = tensor.numel() == 0 ? 0 : 1;
  for (int64_t dim = 0; dim < tensor.dim() && span > 0; ++dim) span += (tensor.size(dim) - 1) * tensor.stride(dim);
  const at::Tensor storage = tensor.as_strided({span}, {1}).to(device);
  return storage.as_strided(tensor.sizes(), tensor.strides());
}

}  // namespace moetap::analysis
