#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

#include "analysis/devices/device_kernels.h"

namespace moetap::plugin {

inline c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

/// A stream for copies beside the host's own: those of the pool of high priority are seldom a host's.
inline c10::Stream stream_for_copies(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/true);
}

/// While what it returns lives, this thread may allocate memory, ask for events and wait although another thread is
/// capturing a graph: see DeviceKernels::outside_captures. Every such call of moetap's needs it.
inline std::shared_ptr<void> outside_captures(c10::Device device) {
  const analysis::DeviceKernels* kernels = analysis::device_kernels(device.type());
  return kernels == nullptr ? nullptr : kernels->outside_captures();
}

/// True while a graph is being captured on the device's current stream: see Note [Graphs].
inline bool is_capturing(c10::Device device) {
  const analysis::DeviceKernels* kernels = analysis::device_kernels(device.type());
  return kernels != nullptr && kernels->is_capturing(device);
}

/// Makes a stream the current one of its device, on this thread, while it lives.
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
