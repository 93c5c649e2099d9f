#pragma once

#include <ATen/record_function.h>

#include <cstdint>
#include <vector>

namespace moetap::benchmarks {

/// What a call of one of moetap's operators took on the thread that made it.
struct OperatorCall {
  double seconds = 0;       // wall time
  double cpu_s = 0;         // processor time, with the 0.5 µs that reading it takes
  int64_t allocations = 0;  // blocks of the heap
};

/// The calls in their order.
struct OperatorCalls {
  std::vector<OperatorCall> begin, router;
  std::vector<OperatorCall> end;  // of `moetap::end` and `moetap::ended`

  double seconds() const;
};

/// Observes moetap's operators on this thread while it lives: LibTorch calls it at every operator, which slows the
/// others. What an operator of moetap calls is not observed, so the time inside one is what it takes without an
/// observer. One at a time.
class OperatorObserver {
 public:
  OperatorObserver();
  ~OperatorObserver();
  OperatorObserver(const OperatorObserver&) = delete;
  OperatorObserver& operator=(const OperatorObserver&) = delete;

  /// The calls since this was called last.
  OperatorCalls take();

 private:
  at::CallbackHandle handle_;
};

}  // namespace moetap::benchmarks
