#pragma once

#include <cstdint>

namespace moetap::plugin {

/// Which of the job's processes this is.
struct ProcessRank {
  int64_t rank = 0;
  int64_t world_size = 1;
};

/// From RANK and WORLD_SIZE, else OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE, else 0 of 1. Throws std::runtime_error
/// that names the variable if it holds no number of 0 or more, or a rank beyond the size.
ProcessRank process_rank_from_environment();

}  // namespace moetap::plugin
