#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>

// Note [The fake device]
// A device of LibTorch (PrivateUse1) whose memory is the host's, so that the way of results from a device to the host
// is tested without a GPU. Its streams are lazy: what is enqueued runs when somebody waits for it, or when a test lets
// it run. So whoever reads without having waited, or having waited for something else, reads old memory; memory that
// nobody wrote is filled with 0xA5. It counts what would cost a host time.
//
// There are two devices, each with a default stream, a pool and as many new streams as are asked for. All of it is
// thread-safe. Tasks run one at a time under a lock, on the thread that waits: a task must not wait, neither for the
// device nor for a thread that uses it.
//
// LibTorch's operations other than copies and fills run on the CPU at once, after what is enqueued on the current
// streams of their thread.
namespace moetap::fake_device {

inline constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
inline constexpr c10::DeviceIndex kNumDevices = 2;

/// Since the last `reset_counts`; what LibTorch's operations do internally is not counted.
struct Counts {
  int64_t allocations = 0;         // of device memory
  int64_t pinned_allocations = 0;  // of host memory
  int64_t synchronizations = 0;    // the host waited: for a stream, an event, the device, or by a copy
  int64_t copies_to_host = 0;
  int64_t bytes_to_host = 0;  // of these copies
  int64_t copies_to_device = 0;
  int64_t copies_on_device = 0;  // also from one device to another
  int64_t fills = 0;
  int64_t kernels = 0;     // `enqueue`, and calls of moetap's kernels
  int64_t operations = 0;  // of LibTorch, which run on the CPU
  int64_t events = 0;      // records of events
  int64_t new_events = 0;  // events that were made
  int64_t capture_queries = 0;
};

/// Makes the device known to LibTorch, and moetap's kernels known for it. Once a process.
void install();

Counts counts();
void reset_counts();

/// True: everything runs when it is enqueued. False (at the start): when somebody waits.
void set_eager(bool eager);
/// Runs what is enqueued on all streams. As every wait, it throws what a task threw; that task is over.
void run_until_idle();
/// Runs the oldest task of the stream, and what it waits for on others. False: there is none. Records of events and
/// waits for them are tasks too.
bool run_next(const c10::Stream& stream);
/// Runs `task` behind what is enqueued on the stream. It keeps what it captures alive.
void enqueue(const c10::Stream& stream, std::function<void()> task);

/// The next call of moetap's router kernel throws once it has enqueued its work, as a CUDA call that reports an earlier
/// error.
void fail_next_router_kernel();

/// As if a graph were being captured on this thread: calls of the kernels are kept, and run with each call of what
/// `end_capture` returns. Until then only threads that have left captures may allocate pinned memory, and query or
/// wait for events, streams and devices; others get an exception, as from CUDA. Memory of the device may also be
/// allocated by the thread that captures.
void begin_capture();
/// Returns the graph; each call of it is a replay.
std::function<void()> end_capture();

}  // namespace moetap::fake_device
