#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace moetap::plugin {

// The one place that turns JSON into text. Names of modules and texts of a command line may hold any bytes: those that
// are no UTF-8 are replaced, so that none of these functions throws for them.

/// One line, without blanks between the values.
std::string compact_text(const nlohmann::json& value);
std::string compact_text(const nlohmann::ordered_json& value);

/// The same with every character outside ASCII escaped.
std::string ascii_text(const nlohmann::json& value);
std::string ascii_text(const nlohmann::ordered_json& value);

/// A text as a JSON string, with its quotes.
std::string quoted_text(const std::string& text);

/// For people: one value a line, indented by one blank a level, with a line break at the end.
std::string indented_text(const nlohmann::ordered_json& value);

/// For messages: `compact_text`, cut behind some 80 bytes, never within a character.
std::string short_text(const nlohmann::json& value);

}  // namespace moetap::plugin
