#pragma once

namespace moetap::cli {

/// Turns the first SIGINT or SIGTERM into a request to stop; a second one ends the process as usual. One object at a
/// time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();  // restores what was there
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool requested() const;
};

}  // namespace moetap::cli
