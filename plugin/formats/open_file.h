#pragma once

#include <sys/types.h>

#include <string>

namespace moetap::plugin {

/// The mode of files that tell what single tokens did: only their owner reads them.
inline constexpr mode_t kPrivateFile = 0600;

/// True if the path leads to the file that the descriptor has open: it was neither removed nor replaced.
bool leads_to(const std::string& path, int descriptor);

}  // namespace moetap::plugin
