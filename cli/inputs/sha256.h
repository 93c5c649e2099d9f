#pragma once

#include <string>

namespace moetap::cli {

/// SHA-256 of a file, as 64 hexadecimal digits. Throws CommandError if the file cannot be read. Blocks for as long as
/// the disk takes. Thread-safe.
std::string sha256_of_file(const std::string& path);

/// The same of a text.
std::string sha256_of_text(const std::string& text);

}  // namespace moetap::cli
