#pragma once

#include "hooks/sites/spec_entry.h"

namespace moetap::hooks {

/// Gives an attention that was found what an entry of kind kAttention says of it, besides values.
void describe(FoundAttention& attention, const SpecEntry& entry, const SpecPlace& place);

/// Names the values of an attention: changes the one in the place, or adds one.
void name_attention(const SpecEntry& entry, const SpecPlace& place);

}  // namespace moetap::hooks
