#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace moetap::analysis {

/// Empty: there is a CUDA device, and moetap's kernels for it; else what is missing, for GTEST_SKIP.
std::string missing_cuda();

/// Empty: kernels can be emulated; else why not.
std::string missing_emulation();

/// A copy with the same sizes and strides.
at::Tensor to_device(const at::Tensor& tensor, at::Device device);

}  // namespace moetap::analysis
