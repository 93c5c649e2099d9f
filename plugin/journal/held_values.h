#pragma once

#include <memory>

#include "analysis/routers/host_call.h"
#include "plugin/formats/byte_stream.h"

namespace moetap::plugin {

/// A call of one row without padding, ids int32, and who owns its memory.
struct OwnedCall {
  analysis::HostRouterCall call;
  std::shared_ptr<const void> memory;
};

/// Writes the values of a call of one row without padding, ids int32, without loss.
void encode_values(ByteWriter& bytes, const analysis::HostRouterCall& call);
/// Throws std::runtime_error for bytes that `encode_values` did not write.
OwnedCall decode_values(ByteReader& bytes);

}  // namespace moetap::plugin
