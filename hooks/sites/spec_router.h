#pragma once

#include "hooks/sites/spec_entry.h"

namespace moetap::hooks {

/// Gives a router that was found what an entry of kind kRouter says of it, besides values.
void describe(FoundRouter& router, const SpecEntry& entry, const SpecPlace& place);

/// Names the values of a router: changes the one in the place, or adds one.
void name_router(const SpecEntry& entry, const SpecPlace& place);

}  // namespace moetap::hooks
