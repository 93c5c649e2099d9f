#pragma once

#include <cstddef>
#include <string>

#include "hooks/routers/router_flow.h"

namespace moetap::hooks {

/// One name for each of PyTorch's spellings of a scoring function.
std::string plain_scoring(const std::string& name);

/// The name of a router's scoring, as a hook has it. `source`: of its weights, or of what `pick` reads; `picks`: how
/// many give its ids.
std::string scoring_name(const Fact& source, const Pick& pick, size_t picks);

}  // namespace moetap::hooks
