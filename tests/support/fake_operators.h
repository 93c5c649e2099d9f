#pragma once

#include <ATen/core/Tensor.h>

namespace moetap::fake_device {

/// A CPU tensor over the same memory; it keeps the memory alive. Undefined for an undefined tensor.
at::Tensor on_cpu(const at::Tensor& tensor);

/// Enlarges a storage of the device and keeps its content. Waits until the device is idle; this wait is not counted.
void grow(c10::StorageImpl& storage, size_t bytes);

/// Registers LibTorch's operations for the device.
void install_operators();

}  // namespace moetap::fake_device
