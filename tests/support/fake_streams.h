#pragma once

#include <c10/core/Stream.h>

#include <functional>

#include "fake_device.h"

namespace moetap::fake_device {

/// The counts of this process, to be added to. Guarded by the lock that it returns.
void count(int64_t Counts::*which);

/// What is counted is LibTorch's own while one of these lives on the thread.
class Uncounted {
 public:
  Uncounted();
  ~Uncounted();
};

c10::Stream current_stream(c10::Device device);

/// Waits as a host does, which is counted.
void wait_for_everything();

/// Registers the streams and events with LibTorch.
void install_streams();

}  // namespace moetap::fake_device
