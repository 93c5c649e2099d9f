#pragma once

#include <ATen/core/Tensor.h>

namespace moetap::fake_device {

/// The same memory as a tensor of the CPU, which keeps it. Undefined stays undefined.
at::Tensor on_cpu(const at::Tensor& tensor);

/// Gives a storage of the device more memory, with its content. Waits until the device is idle, which is not counted.
void grow(c10::StorageImpl& storage, size_t bytes);

/// Registers LibTorch's operations for the device.
void install_operators();

}  // namespace moetap::fake_device
