#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace moetap::cli {

/// A line of JSON as Python's json module writes it, which may hold NaN, Infinity and -Infinity: they become texts.
/// Empty: it is none.
std::optional<nlohmann::ordered_json> parse_lenient(const std::string& line);

/// The number that a value is or, as a text, spells ("0.5", "NaN"); it may not be finite. Empty: none.
std::optional<double> number_in(const nlohmann::ordered_json& value);
std::optional<double> number_in(std::string text);

}  // namespace moetap::cli
