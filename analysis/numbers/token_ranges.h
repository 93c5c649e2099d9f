#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace moetap::analysis {

/// Calls function(begin, end) on ranges that together are [0, num_tokens), on LibTorch's threads if there are more than
/// `grain` tokens. Blocks until all are done; an exception of one is passed on.
void for_token_ranges(int64_t num_tokens, int64_t grain, c10::function_ref<void(int64_t begin, int64_t end)> function);

}  // namespace moetap::analysis
