#pragma once

#include <string>
#include <string_view>

namespace moetap::cli {

/// Base64 with padding (RFC 4648, section 4).
std::string base64(std::string_view bytes);

/// The bytes that an even number of hexadecimal digits stand for.
std::string bytes_of_hex(std::string_view digits);

}  // namespace moetap::cli
