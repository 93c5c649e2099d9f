#pragma once

#include "analysis/routers/router_kernel_arguments.h"

namespace moetap::analysis {

/// How an emulated launch is done; its results must not depend on it.
struct EmulatedLaunch {
  int64_t num_processors = 2;
  uint64_t seed = 1;  // of the order in which threads and blocks run
};

/// The router kernel on tensors of the CPU, run thread by thread: see Note [Emulated warps].
void observe_with_emulated_kernel(const RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                                  const TokenOutputs& outputs = {}, const TransitionFrom& transition = {},
                                  const EmulatedLaunch& how = {});

}  // namespace moetap::analysis
