#include "cli/inputs/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <optional>

#include "cli/terminal/command_error.h"

namespace moetap::cli {

c10::Device open_device(const std::string& text) {
  std::optional<c10::Device> device;
  try {
    device.emplace(text);
  } catch (const std::exception&) {
    device.reset();
  }
  if (!device || !(device->is_cpu() || device->is_cuda())) {
    throw CommandError(fmt::format("--device must be cpu, cuda or cuda:N, got \"{}\"", text), kExitUsage);
  }
  if (device->is_cpu()) {
    return c10::Device(c10::kCPU);
  }
  // The program links the CPU side of LibTorch only, so that it also runs where no CUDA library is installed.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw CommandError(
        fmt::format("--device {}: this LibTorch has no CUDA part ({}); use --device cpu", text, dlerror()));
  }
  const int num_devices = at::detail::getCUDAHooks().deviceCount();
  const int index = device->has_index() ? device->index() : 0;
  if (index >= num_devices) {
    throw CommandError(
        fmt::format("--device {}: no such CUDA device, {} found; use another device", text, num_devices));
  }
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace moetap::cli
