#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace moetap::plugin {

inline c10::Stream current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

/// A stream for copies beside the host's own: those of the pool of high priority are seldom a host's.
inline c10::Stream stream_for_copies(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/true);
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
