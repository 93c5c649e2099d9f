#pragma once

#include <filesystem>

namespace moetap::analysis {

/// The file that this code was loaded from: libmoetap.so, or the program that has it linked in. Absolute, without
/// symbolic links; empty if it cannot be found. Thread-safe.
std::filesystem::path own_file();

/// True if this code is part of the program that the process runs, and not of a library that it loaded.
bool is_in_program();

}  // namespace moetap::analysis
