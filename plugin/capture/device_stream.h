#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "analysis/devices/device_kernels.h"

namespace moetap::plugin {

inline c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

/// A stream for moetap's copies, from LibTorch's pool of high priority, whose streams hosts seldom use.
inline c10::Stream stream_for_copies(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/true);
}

/// While it lives, this thread may allocate memory, query events and wait even if another thread is capturing a graph:
/// see DeviceKernels::leave_captures. All of moetap's calls of that kind need it. It does nothing on the CPU, or where
/// the device has no kernels of moetap.
class OutsideCaptures {
 public:
  explicit OutsideCaptures(c10::Device device)
      : kernels_(analysis::device_kernels(device.type())), before_(kernels_ ? kernels_->leave_captures() : 0) {}
  ~OutsideCaptures() {
    if (kernels_) kernels_->return_to_captures(before_);
  }
  OutsideCaptures(const OutsideCaptures&) = delete;
  OutsideCaptures& operator=(const OutsideCaptures&) = delete;

 private:
  const analysis::DeviceKernels* const kernels_;
  const int before_;
};

/// True while a graph is being captured on the device's current stream: see Note [Graphs]. Within a forward, ask
/// HostCopies::is_capturing.
inline bool is_capturing(c10::Device device) {
  const analysis::DeviceKernels* kernels = analysis::device_kernels(device.type());
  return kernels != nullptr && kernels->is_capturing(device);
}

/// While it lives, `stream` is the current stream of its device on this thread.
class OnStream {
 public:
  explicit OnStream(c10::Stream stream) : guard_(stream.device_type()), before_(guard_.getStream(stream.device())) {
    guard_.exchangeStream(stream);
  }
  ~OnStream() { guard_.exchangeStream(before_); }
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  c10::impl::VirtualGuardImpl guard_;
  const c10::Stream before_;
};

}  // namespace moetap::plugin
