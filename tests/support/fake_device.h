#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>

// Note [The fake device]
// A device of LibTorch (PrivateUse1) whose memory is the host's, so that the way of results from a device to the host
// is tested without a GPU. Its streams are lazy: what is enqueued runs when somebody waits, or when a test lets it run.
// So whoever reads without having waited reads old memory. It counts what would cost a host time.
namespace moetap::fake_device {

inline constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;

/// Since the last `reset_counts`; what LibTorch's operations of the model do among themselves is left out.
struct Counts {
  int64_t allocations = 0;         // of device memory
  int64_t pinned_allocations = 0;  // of host memory
  int64_t synchronizations = 0;    // the host waited: for a stream, an event, the device, or by a copy
  int64_t copies_to_host = 0;
  int64_t copies_to_device = 0;
  int64_t copies_on_device = 0;
  int64_t fills = 0;
  int64_t kernels = 0;     // `enqueue`
  int64_t operations = 0;  // of LibTorch, which run on the CPU
};

/// Makes the device known to LibTorch, and moetap's kernels known for it. Once a process.
void install();

Counts counts();
void reset_counts();

/// True: everything runs when it is enqueued. False, which is so at first: when somebody waits.
void set_eager(bool eager);
/// Runs what is enqueued on all streams.
void run_until_idle();
/// Runs `task` behind what is enqueued on the stream.
void enqueue(const c10::Stream& stream, std::function<void()> task);

/// As if a graph was captured on this thread: what the kernels are called for is kept, and runs with each `replay`.
void begin_capture();
/// Returns what was captured.
std::function<void()> end_capture();

}  // namespace moetap::fake_device
