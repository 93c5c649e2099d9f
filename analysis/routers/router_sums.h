#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_sums_values.h"

namespace moetap::analysis {

/// Sums of nothing, ready to be added to. One allocation on `device`, current stream, does not block.
RouterSums empty_router_sums(int64_t num_experts, int64_t top_k, int64_t num_rows, at::Device device = at::kCPU);

/// Adds the tokens of one call. Tensors on the CPU: computed before the return, with LibTorch's threads, on one pass
/// over the logits. Other devices: LibTorch operations on the current stream, no synchronisation. Thread-safe; changes
/// none of its arguments. Throws c10::Error on tensors whose shape, dtype or device does not fit, on more than
/// kMaxTermsPerCall tokens. The bits of the sums do not depend on the batch split, as long as no sample is cut
/// (kRepeatPairs sees one call at a time).
RouterSums observe(const RouterCall& call, const TokenRows& rows);

/// The same, added to `sums`, which must have the call's experts, K, rows and device. Nothing is allocated for the
/// sums.
void observe_into(RouterSums& sums, const RouterCall& call, const TokenRows& rows);

/// Carries the low limbs into the high ones, in place. Host sums only. Sums from `observe` on the CPU, `merge` and
/// `sum_rows` are normalized; those copied from a device are not. Throws c10::Error if a sum is beyond 5.7e17.
void normalize(RouterSums& sums);

/// Adds `from` to `into`, row by row, exactly. Host sums only. `into` may be default-constructed. Throws c10::Error if
/// experts, K or the number of rows differ, if only one holds pairs, or if a sum overflows; `into` is then unchanged.
void merge(RouterSums& into, const RouterSums& from);

/// One row that holds the sum of all rows, with the pairs. Host sums only.
RouterSums sum_rows(const RouterSums& sums);

/// One row on its own, without the pairs (they are not kept by row). Host sums only.
RouterSums select_row(const RouterSums& sums, int64_t row);

}  // namespace moetap::analysis
