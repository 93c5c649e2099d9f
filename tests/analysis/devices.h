#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "tests/support/cuda_device.h"  // missing_cuda, for GTEST_SKIP

namespace moetap::analysis {

/// Empty: kernels can be emulated; else why not.
std::string missing_emulation();

/// A copy on `device` with the same sizes and strides.
at::Tensor to_device(const at::Tensor& tensor, at::Device device);

}  // namespace moetap::analysis
