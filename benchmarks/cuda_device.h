#pragma once

#include <string>

namespace moetap::analysis {

/// Loads LibTorch's CUDA side, which programs of ours are not linked with. Empty: there is a CUDA device, and moetap's
/// kernels for it; else what is missing: kNoCudaDevice, or why there are no kernels.
std::string missing_cuda();

inline constexpr const char* kNoCudaDevice = "no CUDA device";

}  // namespace moetap::analysis
