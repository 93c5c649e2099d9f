#include "benchmarks/process_usage.h"

#include <malloc.h>
#include <time.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace moetap::benchmarks {
namespace {

double seconds_of(clockid_t clock) {
  timespec time{};
  if (::clock_gettime(clock, &time) != 0) throw std::runtime_error("the clock cannot be read");
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// "VmHWM:   123 kB" in bytes.
int64_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1)) * 1024;
  }
  throw std::runtime_error("/proc/self/status has no " + key);
}

}  // namespace

double wall_seconds() {
  return seconds_of(CLOCK_MONOTONIC);
}

double process_cpu_seconds() {
  return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

double thread_cpu_seconds() {
  return seconds_of(CLOCK_THREAD_CPUTIME_ID);
}

double thread_cpu_seconds(const std::string& name) {
  double seconds = 0;
  bool found = false;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string own_name;
    std::getline(std::ifstream(task.path() / "comm"), own_name);
    if (own_name != name) continue;
    int64_t running_ns = 0;
    if (!(std::ifstream(task.path() / "schedstat") >> running_ns)) {
      throw std::runtime_error(task.path().string() + "/schedstat cannot be read");
    }
    seconds += 1e-9 * static_cast<double>(running_ns);
    found = true;
  }
  if (!found) throw std::runtime_error("no thread is named " + name);
  return seconds;
}

int64_t bytes_under(const std::string& folder) {
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

ResidentMemory resident_memory() {
  ::malloc_trim(0);
  return {status_bytes("VmRSS"), status_bytes("RssAnon")};
}

void reset_peak_resident() {
  std::ofstream file("/proc/self/clear_refs");
  if (!(file << "5" << std::flush)) throw std::runtime_error("/proc/self/clear_refs cannot be written");
}

int64_t peak_resident_bytes() {
  return status_bytes("VmHWM");
}

}  // namespace moetap::benchmarks
