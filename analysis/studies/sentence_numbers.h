#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace moetap::analysis::studies {

/// A number as a sentence says it: three significant digits, "1.25", "0.0031", "12400"; "undefined" for NaN.
std::string number_text(double value);
/// A share as a percentage: "41 %", "4.1 %", "0.41 %"; "99.7 %" where some are missing to all.
std::string percent_text(double share);
/// "1 token", "2 tokens".
std::string count_text(int64_t count, const std::string& one, const std::string& many);

/// The place of the largest value, the first of equal ones, NaN left out; −1 if there is none.
int64_t place_of_largest(const std::vector<double>& values);
int64_t place_of_smallest(const std::vector<double>& values);

}  // namespace moetap::analysis::studies
