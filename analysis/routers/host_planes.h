#pragma once

#include <cstdint>

#include "analysis/numbers/token_kernels.h"
#include "analysis/routers/host_call.h"

namespace moetap::analysis {

/// How the reals of a plane are stored.
RealFormat format_of(const HostPlane& plane);

/// The address of a token's values.
const void* values_of(const HostPlane& plane, int64_t token);

inline bool is_expert(int64_t id, int64_t num_experts) {
  return static_cast<uint64_t>(id) < static_cast<uint64_t>(num_experts);
}

/// Writes the ids and weights of a token as they are recorded.
void write_slots(const HostRouterCall& call, int64_t token, const HostTokenOutputs& outputs);

}  // namespace moetap::analysis
