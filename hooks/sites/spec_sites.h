#pragma once

#include <vector>

#include "hooks/points/hook_spec.h"
#include "hooks/sites/router_sites.h"

namespace moetap::hooks {

/// Lets a hook spec change what discovery decided: routers are added, changed or left out, entry after entry, before
/// anything is inserted. The graphs must have kept their calls. Throws HookSpecError for an entry that matches nothing
/// or names a value that is not there, with what is near.
void apply_hook_spec(const HookSpec& spec, std::vector<MethodSites>& methods);

}  // namespace moetap::hooks
