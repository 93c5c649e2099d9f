#pragma once

#include <stdexcept>
#include <string>

namespace moetap::cli {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;  // as a shell reports SIGINT

/// Ends a command: `what()` is the one line for the user (what was wrong, where, what to do), without the program's
/// name.
class CommandError : public std::runtime_error {
 public:
  explicit CommandError(const std::string& line, int exit_status = kExitFailed)
      : std::runtime_error(line), exit_status_(exit_status) {}

  int exit_status() const { return exit_status_; }

 private:
  int exit_status_;
};

}  // namespace moetap::cli
