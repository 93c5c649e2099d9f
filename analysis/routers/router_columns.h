#pragma once

#include "analysis/routers/router_call.h"
#include "analysis/routers/router_column.h"
#include "analysis/routers/router_sums_values.h"

namespace moetap::analysis {

/// The columns that the call has.
RouterColumns columns_of(const RouterCall& call);

/// Removes columns from a call, as if the model did not have them. Ids cannot be removed.
void leave_out(RouterCall& call, RouterColumns columns);

/// Removes what was measured of columns from host sums, in place: they are as if the call had not had them. `measured`:
/// the columns that the call had. Weights count among the selections, too (a weight of 0 selects nothing, the largest
/// comes first): where they are left out, the call must have been measured with `placeholder_weights`.
void leave_out(RouterSums& sums, RouterColumns columns, RouterColumns measured);

/// Weights [num_tokens, top_k] by which the slots count and are ranked as those of a call without weights.
at::Tensor placeholder_weights(const RouterCall& call);

}  // namespace moetap::analysis
