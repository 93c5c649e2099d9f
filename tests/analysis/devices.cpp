#include "devices.h"

#include <ATen/ATen.h>

namespace moetap::analysis {

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
