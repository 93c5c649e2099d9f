#pragma once

#include <c10/core/Stream.h>

#include <functional>

#include "fake_device.h"

namespace moetap::fake_device {

/// Adds one to a count of the process.
void count(int64_t Counts::*which, int64_t number = 1);

/// While one of these lives on a thread, what the thread does is LibTorch's own and is not counted.
class Uncounted {
 public:
  Uncounted();
  ~Uncounted();
  Uncounted(const Uncounted&) = delete;
  Uncounted& operator=(const Uncounted&) = delete;
};

/// The current stream of this thread. A device without an index means the current device.
c10::Stream current_stream(c10::Device device);

/// As `enqueue`, but not counted as a kernel.
void push(const c10::Stream& stream, std::function<void()> task);

/// What is enqueued on `later` from now on runs after what has been enqueued on `earlier` so far.
void put_behind(const c10::Stream& later, const c10::Stream& earlier);

/// Waits as a host does; the wait is counted.
void wait_for(const c10::Stream& stream);

/// See DeviceKernels.
void leave_captures();
void return_to_captures();

/// A graph is captured from `captures(true)` to `captures(false)`, on whatever thread.
void captures(bool on);

/// Throws, as CUDA does, if a graph is being captured and this thread is not outside. For what CUDA calls unsafe:
/// allocations, queries and waits.
void check_allowed_now(const char* call);

/// Registers the streams and events with LibTorch.
void install_streams();

}  // namespace moetap::fake_device
