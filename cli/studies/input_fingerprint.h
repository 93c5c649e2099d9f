#pragma once

#include <string>
#include <vector>

namespace moetap::cli {

/// Tells inputs apart without reading all of them: SHA-256 of the names, the sizes, and the first and the last 64 KiB
/// of each file that is, or lies below, one of `names` in `folder`. The folder's path and times are not in it: a copy
/// has the same. Throws CommandError.
std::string input_fingerprint(const std::string& folder, const std::vector<std::string>& names);

}  // namespace moetap::cli
