#pragma once

#include <string>

namespace moetap::analysis {

/// Why CUDA cannot be used here: kNoCudaDevice, or the reason why moetap's kernels are missing. Empty if it can. Loads
/// LibTorch's CUDA libraries, which our programs are not linked with. Thread-safe.
std::string missing_cuda();

inline constexpr const char* kNoCudaDevice = "no CUDA device";

}  // namespace moetap::analysis
