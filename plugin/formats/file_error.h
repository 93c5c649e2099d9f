#pragma once

#include <string>

namespace moetap::plugin {

/// Throws std::runtime_error "cannot ACTION PATH: REASON", REASON being the text of `error_number` (an errno). One
/// line.
[[noreturn]] void throw_file_error(const char* action, const std::string& path, int error_number);

}  // namespace moetap::plugin
