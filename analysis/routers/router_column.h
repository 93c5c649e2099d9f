#pragma once

#include <cstdint>

namespace moetap::analysis {

/// What a router call reports. A set of columns is the sum of their bits.
enum RouterColumn : uint32_t { kLogitsColumn = 1, kScoresColumn = 2, kWeightsColumn = 4, kIdsColumn = 8 };
using RouterColumns = uint32_t;

/// "logits", "scores", "weights", "ids".
const char* column_name(RouterColumn column);

}  // namespace moetap::analysis
