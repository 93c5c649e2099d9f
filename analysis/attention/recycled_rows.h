#pragma once

#include <cstdint>

#include "analysis/attention/attention_paths.h"
#include "analysis/attention/attention_rows.h"

namespace moetap::analysis {

/// Rows of a call of these sizes that came back by `recycle`: values, bins and sums by head are 0, `matrix` is
/// undefined, the rest is of an earlier call. With undefined tensors where there are none.
AttentionRows recycled_rows(const AttentionShape& shape, int64_t num_regions);

}  // namespace moetap::analysis
