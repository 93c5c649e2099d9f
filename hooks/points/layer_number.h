#pragma once

#include <string>

namespace moetap::hooks {

// Layer ids are decimal digits, as many as the name of a module has: they are compared and counted as text, since no
// integer type holds them all.

/// The same number without leading zeros: "007" is "7", "000" is "0".
std::string without_leading_zeros(const std::string& digits);

/// True if the first number is smaller. Both without leading zeros.
bool is_smaller_number(const std::string& a, const std::string& b);

/// The number plus one: "9" gives "10". Without leading zeros.
std::string next_number(std::string digits);

}  // namespace moetap::hooks
