#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <string>

namespace moetap::analysis {

// Note [Kernels of devices]
// CUDA kernels are in a library of their own, libmoetap_cuda.so, which is loaded when the first tensor of a CUDA device
// is observed. So moetap itself links no CUDA library, and one build serves hosts with and without CUDA. Where the
// library is missing or cannot be loaded, LibTorch's operations do the same work.

class AttentionDeviceKernels;
class RouterKernels;

/// moetap's own code for one type of device: the kernels of each kind of hook, and the state of captured graphs.
/// Thread-safe.
class DeviceKernels {
 public:
  virtual ~DeviceKernels() = default;

  /// The kernels that measure router calls: see routers/router_kernels.h.
  virtual const RouterKernels& routers() const = 0;

  /// Those that measure attention calls: see attention/attention_device_kernels.h. Null: there are none.
  virtual const AttentionDeviceKernels* attention() const { return nullptr; }

  /// True while a graph is being captured on the device's current stream: work that is enqueued does not run now, but
  /// each time the graph is replayed.
  virtual bool is_capturing(c10::Device device) const = 0;

  /// From now on, calls of this thread belong to no capture: they neither fail because a graph is being captured
  /// (perhaps by another thread) nor break that capture. For work on streams that are not captured. Returns what
  /// `return_to_captures` needs to end it; pairs of the two may be nested.
  virtual int leave_captures() const = 0;
  virtual void return_to_captures(int before) const noexcept = 0;

  /// Adds 1 to an int64 [1] on the current stream of its device.
  virtual void count_one(const at::Tensor& counter) const = 0;
};

/// Null: there are none for this type of device. The first call for CUDA loads the library. Thread-safe.
const DeviceKernels* device_kernels(c10::DeviceType type);

/// Why there are none for CUDA; empty: they were loaded, or `device_kernels` has not been called for CUDA yet.
std::string cuda_kernels_error();

/// For a type of device other than CUDA; kept until the process ends.
void register_device_kernels(c10::DeviceType type, std::unique_ptr<const DeviceKernels> kernels);

}  // namespace moetap::analysis
