#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <string>

namespace moetap::analysis {

// Note [Kernels of devices]
// The kernels of CUDA lie in a library of their own, libmoetap_cuda.so, which is loaded when the first tensor of a CUDA
// device is observed. So moetap itself links no CUDA library, and one build serves hosts with and without it. Where
// that library is not there, or cannot be loaded, LibTorch's operations do the same work.

class RouterKernels;

/// What moetap has of its own for one type of device: the kernels of each kind of hook, and the state of graphs.
/// Thread-safe.
class DeviceKernels {
 public:
  virtual ~DeviceKernels() = default;

  /// What measures router calls: see routers/router_kernels.h.
  virtual const RouterKernels& routers() const = 0;

  /// True while a graph is being captured on the device's current stream: what is enqueued does not run now, but each
  /// time that the graph is replayed.
  virtual bool is_capturing(c10::Device device) const = 0;

  /// While what it returns lives, calls of this thread are none of a capture's: they neither fail since a graph is
  /// being captured, perhaps by another thread, nor spoil it. For work on streams that are not captured.
  virtual std::shared_ptr<void> outside_captures() const = 0;

  /// Adds 1 to an int64 [1] on the current stream of its device.
  virtual void count_one(const at::Tensor& counter) const = 0;
};

/// Null: there are none for this type of device.
const DeviceKernels* device_kernels(c10::DeviceType type);

/// Why there are none for CUDA; empty: they were loaded, or nobody asked so far.
std::string cuda_kernels_error();

/// For devices that bring their own.
void register_device_kernels(c10::DeviceType type, std::unique_ptr<const DeviceKernels> kernels);

}  // namespace moetap::analysis
