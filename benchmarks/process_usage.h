#pragma once

#include <cstdint>
#include <string>

namespace moetap::benchmarks {

/// Seconds of a monotonic clock.
double wall_seconds();

/// Processor time of all threads of this process, in seconds.
double process_cpu_seconds();

/// Processor time of the calling thread, in seconds.
double thread_cpu_seconds();

/// Processor time of the running threads with this name in this process, in seconds. Throws std::runtime_error if there
/// is none.
double thread_cpu_seconds(const std::string& name);

/// Bytes of all regular files below a folder.
int64_t bytes_under(const std::string& folder);

/// Resident memory. Free memory of the allocator is returned to the system first.
struct ResidentMemory {
  int64_t bytes = 0;
  int64_t anonymous_bytes = 0;  // the part that no file backs: without the code of LibTorch
};
ResidentMemory resident_memory();

/// Makes `peak_resident_bytes` give the peak from now on.
void reset_peak_resident();
int64_t peak_resident_bytes();

}  // namespace moetap::benchmarks
