#include "analysis/devices/device_kernels.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <mutex>

#include "analysis/devices/own_file.h"

namespace moetap::analysis {
namespace {

constexpr const char* kCudaLibrary = "libmoetap_cuda.so";
constexpr const char* kCudaFactory = "moetap_cuda_kernels";

struct Registry {
  std::array<std::atomic<const DeviceKernels*>, c10::COMPILE_TIME_MAX_DEVICE_TYPES> kernels{};
  std::once_flag cuda_is_looked_for;
  std::mutex mutex;  // guards cuda_error
  std::string cuda_error;
};

/// Never destroyed: forwards may run while the process exits.
Registry& registry() {
  static auto* registry = new Registry;
  return *registry;
}

void load_cuda_kernels() {
  Registry& all = registry();
  std::string errors;
  const auto folder = own_file().parent_path();
  // Beside libmoetap.so; for a program that has the code linked in, where the libraries of the build tree or of the
  // installation lie.
  for (const auto& candidate : {folder / kCudaLibrary, folder.parent_path() / "lib" / kCudaLibrary,
                                folder / MOETAP_LIBRARIES_FROM_PROGRAMS / kCudaLibrary}) {
    if (!std::filesystem::exists(candidate)) continue;
    void* library = ::dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* factory = library == nullptr ? nullptr : ::dlsym(library, kCudaFactory);
    if (factory != nullptr) {
      all.kernels.at(static_cast<size_t>(c10::kCUDA)) = reinterpret_cast<const DeviceKernels* (*)()>(factory)();
      return;
    }
    const char* error = ::dlerror();
    errors = error == nullptr ? "unknown error" : error;
  }
  const std::lock_guard lock(all.mutex);
  all.cuda_error = errors.empty() ? fmt::format("{} is not in {}", kCudaLibrary, folder.string()) : errors;
}

}  // namespace

const DeviceKernels* device_kernels(c10::DeviceType type) {
  Registry& all = registry();
  if (type == c10::kCUDA) std::call_once(all.cuda_is_looked_for, load_cuda_kernels);
  return all.kernels.at(static_cast<size_t>(type)).load(std::memory_order_acquire);
}

std::string cuda_kernels_error() {
  const std::lock_guard lock(registry().mutex);
  return registry().cuda_error;
}

void register_device_kernels(c10::DeviceType type, std::unique_ptr<const DeviceKernels> kernels) {
  registry().kernels.at(static_cast<size_t>(type)) = kernels.release();  // kept for ever, as those of CUDA
}

}  // namespace moetap::analysis
