#pragma once

#include <cstdint>
#include <string>

namespace moetap::analysis::studies {

// How the sentences of results write numbers.

/// "41.2 %", of a share; "undefined" for NaN.
std::string percent(double share);
/// A value with three decimals, "1.250".
std::string decimal(double value);
/// "3 experts", "1 expert".
std::string counted(int64_t count, const std::string& thing);

}  // namespace moetap::analysis::studies
