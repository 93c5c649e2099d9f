#include "cli/report/log_numbers.h"

#include <cctype>
#include <cstdlib>
#include <string_view>

namespace moetap::cli {

std::optional<nlohmann::ordered_json> parse_lenient(const std::string& line) {
  std::string text;
  bool in_text = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (in_text) {
      text += c;
      if (c == '\\' && i + 1 < line.size()) {
        text += line[++i];
      } else if (c == '"') {
        in_text = false;
      }
      continue;
    }
    bool was_name = false;
    for (const std::string_view name : {"-Infinity", "Infinity", "NaN"}) {
      if (std::string_view(line).substr(i, name.size()) != name) continue;
      text += '"' + std::string(name) + '"';
      i += name.size() - 1;
      was_name = true;
      break;
    }
    if (was_name) continue;
    in_text = c == '"';
    text += c;
  }
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return std::nullopt;
  return json;
}

std::optional<double> number_in(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.erase(0, 1);
  if (text.empty()) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  return *end == '\0' ? std::optional(value) : std::nullopt;
}

std::optional<double> number_in(const nlohmann::ordered_json& value) {
  if (value.is_number()) return value.get<double>();
  return value.is_string() ? number_in(value.get<std::string>()) : std::nullopt;
}

}  // namespace moetap::cli
