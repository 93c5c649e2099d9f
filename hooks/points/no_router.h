#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>

#include "hooks/points/hook_point.h"

namespace moetap::hooks {

/// One line for a module in which discovery found no router: which methods were looked at, what was skipped and why.
std::string no_router_message(const torch::jit::Module& module, const Discovery& discovery);

}  // namespace moetap::hooks
