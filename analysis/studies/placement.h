#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// `placement`: how evenly expert parallelism over G GPUs is loaded, for G = 2, 4, 8, ... that divide E. Placements:
/// contiguous (expert e on GPU e * G div E), balanced (the most used expert first to the least loaded GPU with room for
/// E / G experts, ties to the lower id), or instead of both options.placement (`file`). Imbalance = max / mean over
/// GPUs of the uses of their experts, over the run and over forwards of at least 256 tokens of the layer (percentiles
/// interpolate linearly); fanout = mean number of different GPUs that the experts of a token lie on.
/// Order::kForwards; two passes, since balanced needs the counts of the run; one with options.placement. Table
/// `placement`. State: 8 bytes a layer, placement and counted forward.
std::unique_ptr<Study> make_placement(const ComponentShape& shape, const StudyOptions& options);

/// [E] The GPU of each expert.
std::vector<int32_t> contiguous_placement(int64_t num_experts, int64_t num_gpus);
std::vector<int32_t> balanced_placement(std::span<const int64_t> counts, int64_t num_gpus);

}  // namespace moetap::analysis::studies
