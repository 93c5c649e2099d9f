#pragma once

#include <filesystem>

namespace moetap::plugin {

/// Removes what processes that ended left beside `path` while they wrote it: `PATH.tmp-PID-N`, files and folders. Those
/// of processes that live stay. What cannot be removed stays without an error.
void remove_left_temporaries(const std::filesystem::path& path);

}  // namespace moetap::plugin
