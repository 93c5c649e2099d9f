#pragma once

#include "analysis/attention/expert_rows.h"
#include "plugin/formats/byte_stream.h"

namespace moetap::plugin {

/// Writes rows without loss, about 150 bytes each.
void encode(ByteWriter& bytes, const analysis::ExpertRows& rows);
/// Throws std::runtime_error for bytes that `encode` did not write.
analysis::ExpertRows decode_expert_rows(ByteReader& bytes);

}  // namespace moetap::plugin
