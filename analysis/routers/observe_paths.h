#pragma once

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"

namespace moetap::analysis {

// The paths by which `observe_into` can measure a call. All give the same counts, and sums of reals that agree to 1e-6
// of their value; each gives the same bits wherever it runs. The third is the kernel: see router_kernels.h. Arguments
// are checked already: see `check_call`.

/// Reference: one pass over the tokens with LibTorch's threads. CPU tensors only. Leaves `sums` normalized.
void observe_on_cpu(RouterSums& sums, const RouterCall& call, const TokenRows& rows, const TokenOutputs& outputs = {},
                    const TransitionFrom& transition = {});

/// LibTorch operations on the current stream of any device: no synchronisation, no shape that depends on data.
void observe_with_operations(RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                             const TokenOutputs& outputs = {}, const TransitionFrom& transition = {});

/// Throws c10::Error, naming argument, expectation and actual value, unless the call and its rows fit together.
void check_call(const RouterCall& call);
void check_rows(const TokenRows& rows, int64_t num_tokens, at::Device device);
void check_outputs(const RouterCall& call, const TokenOutputs& outputs, const TransitionFrom& transition);

inline constexpr int64_t kMaskedRow = -1;

/// The row of each token, int64 [num_tokens], also where `rows.row` is undefined; not in [0, num_rows): masked.
at::Tensor row_of_tokens(const TokenRows& rows, int64_t num_tokens, at::Device device);

}  // namespace moetap::analysis
