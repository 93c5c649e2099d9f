#pragma once

#include <cstdint>

namespace moetap::analysis {

/// What a router call reports, and, where findings of all hooks stand together, what attention does. A set of columns
/// is the sum of their bits.
enum RouterColumn : uint32_t {
  kLogitsColumn = 1,
  kScoresColumn = 2,
  kWeightsColumn = 4,
  kIdsColumn = 8,
  kProbabilitiesColumn = 16,
};
using RouterColumns = uint32_t;

/// True for the columns without which nothing of the hook can be read.
constexpr bool is_all_of_hook(RouterColumn column) {
  return column == kIdsColumn || column == kProbabilitiesColumn;
}

/// "logits", "scores", "weights", "ids", "probabilities".
const char* column_name(RouterColumn column);

}  // namespace moetap::analysis
