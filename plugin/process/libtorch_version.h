#pragma once

#include <optional>
#include <string>

namespace moetap::plugin {

/// Why this library cannot work with the LibTorch of the process, one line; empty: it can. Asks LibTorch for nothing
/// but its version.
std::optional<std::string> libtorch_mismatch();

}  // namespace moetap::plugin
