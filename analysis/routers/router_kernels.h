#pragma once

#include <c10/core/Device.h>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"

namespace moetap::analysis {

/// The kernels for router calls of one type of device. Thread-safe.
class RouterKernels {
 public:
  virtual ~RouterKernels() = default;

  /// False for a device that the kernels were not compiled for.
  virtual bool runs_on(c10::Device device) const = 0;

  /// As `observe_into` of token_outputs.h, in one launch on the current stream of the call's device. Does not block and
  /// does not allocate. The arguments are checked, and `kernel_takes(call)`.
  virtual void observe(const RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                       const TokenOutputs& outputs, const TransitionFrom& transition) const = 0;
};

}  // namespace moetap::analysis
