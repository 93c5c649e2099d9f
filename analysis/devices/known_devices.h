#pragma once

#include <c10/core/Device.h>

#include <array>
#include <atomic>
#include <cstddef>

namespace moetap::analysis {

/// Whether kernels run on a device.
enum class KernelsRun {
  kNotKnown,  // the device could not be asked: it lacks memory, say, or a graph is being captured
  kNo,        // they were not compiled for it
  kYes,
};

/// What devices of one type have answered. Only what holds for ever is remembered: one that could not be asked is asked
/// again by the next call. Thread-safe.
class KnownDevices {
 public:
  /// ask(): KernelsRun of `device`. A query takes microseconds, so that a device is asked once.
  template <typename Ask>
  bool run_on(c10::Device device, const Ask& ask) {
    std::atomic<KernelsRun>& known = known_.at(static_cast<size_t>(device.index()));
    KernelsRun run = known.load(std::memory_order_relaxed);
    if (run == KernelsRun::kNotKnown) {
      run = ask();
      if (run != KernelsRun::kNotKnown) known.store(run, std::memory_order_relaxed);
    }
    return run == KernelsRun::kYes;
  }

 private:
  std::array<std::atomic<KernelsRun>, 64> known_{};
};

}  // namespace moetap::analysis
