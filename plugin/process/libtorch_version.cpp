#include "plugin/process/libtorch_version.h"

#include <dlfcn.h>
#include <torch/version.h>

#include <cstdint>

namespace moetap::plugin {

std::optional<std::string> libtorch_mismatch() {
  // By name, as it is missing in old versions: a call would end the process when the symbol is resolved.
  using Version = uint64_t();
  auto* version = reinterpret_cast<Version*>(dlsym(RTLD_DEFAULT, "aoti_torch_abi_version"));
  const uint64_t found = version == nullptr ? 0 : version();
  constexpr uint64_t kBuiltFor = TORCH_ABI_VERSION;  // some versions write the macro without parentheses
  constexpr int kMinorShift = 48;                    // major and minor are the two highest bytes
  if (found >> kMinorShift == kBuiltFor >> kMinorShift) return std::nullopt;
  const std::string other = found == 0 ? "an older one"
                                       : "LibTorch " + std::to_string(found >> (kMinorShift + 8)) + "." +
                                             std::to_string(found >> kMinorShift & 0xff);
  return "this library is built for LibTorch " + std::to_string(TORCH_VERSION_MAJOR) + "." +
         std::to_string(TORCH_VERSION_MINOR) + " and the process has " + other +
         ": it stays idle; build moetap against that LibTorch (-DMOETAP_TORCH_DIR=...)";
}

}  // namespace moetap::plugin
