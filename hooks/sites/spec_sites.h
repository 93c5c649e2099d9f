#pragma once

#include <vector>

#include "hooks/points/hook_spec.h"
#include "hooks/sites/model_sites.h"

namespace moetap::hooks {

/// Applies a hook spec to what discovery found: routers are added, changed or left out, one entry after the other. The
/// graphs must have kept their calls (CallsOfModules::kKept). Throws HookSpecError for an entry that matches nothing or
/// names a value that is not there, with the nearest names.
void apply_hook_spec(const HookSpec& spec, std::vector<MethodSites>& methods);

}  // namespace moetap::hooks
