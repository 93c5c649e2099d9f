#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace moetap::plugin {

// Note [Temporary names]
// What is being written to PATH stands as PATH.tmp-PID-N beside it until it is whole; PID is the process that writes
// it. One that is killed cannot clean up after itself: the next command that writes to the same PATH removes what
// processes that are no more left there. A number of a process that lives again for something else keeps a leftover
// until that one has ended; what a process still writes is never touched.

/// PATH.tmp-PID-NUMBER of this process.
std::string temporary_path(const std::string& path, int64_t number);

/// A name as above, taken apart.
struct TemporaryName {
  std::string_view path;  // of `name`, what it is written for
  pid_t process = 0;
  int64_t number = 0;
};

/// Empty: `name` is none. The longest path: of "a.tmp-1-0.tmp-2-3" process 2 writes "a.tmp-1-0".
std::optional<TemporaryName> parse_temporary_name(std::string_view name);

/// No process of this number runs on this machine.
bool is_dead(pid_t process);

/// Removes files and folders PATH.tmp-PID-N, and what was being written inside such a name, of dead processes. Errors
/// are left to whoever writes there next.
void remove_left_temporaries(const std::filesystem::path& path);

}  // namespace moetap::plugin
