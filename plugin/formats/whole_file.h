#pragma once

#include <string>

namespace moetap::plugin {

/// All bytes of a file; a pipe is read to its end. Throws std::runtime_error "cannot read PATH: REASON". Thread-safe;
/// blocks on the disk.
std::string read_whole_file(const std::string& path);

}  // namespace moetap::plugin
