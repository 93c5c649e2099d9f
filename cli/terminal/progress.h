#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace moetap::cli {

/// A bar on stderr for work of known length. Prints nothing where stderr is no terminal. Not thread-safe.
class Progress {
 public:
  Progress(std::string unit, int64_t total);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance();
  void clear();

 private:
  void draw();

  std::string unit_;  // plural: "forwards"
  int64_t total_;
  int64_t done_ = 0;
  bool on_terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point last_drawn_;
};

}  // namespace moetap::cli
