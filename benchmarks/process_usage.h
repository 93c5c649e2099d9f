#pragma once

#include <cstdint>
#include <string>

namespace moetap::benchmarks {

/// Seconds of a clock that only goes forward.
double wall_seconds();

/// Processor time of all threads of this process, in seconds.
double process_cpu_seconds();

/// Processor time of this process's living threads of a name, in seconds. Throws std::runtime_error if there is none.
double thread_cpu_seconds(const std::string& name);

/// Resident memory, after what is free was given back to the system.
struct ResidentMemory {
  int64_t bytes = 0;
  int64_t anonymous_bytes = 0;  // of it, what is no file: without the code of LibTorch
};
ResidentMemory resident_memory();

/// Makes `peak_resident_bytes` count from now on.
void reset_peak_resident();
int64_t peak_resident_bytes();

}  // namespace moetap::benchmarks
