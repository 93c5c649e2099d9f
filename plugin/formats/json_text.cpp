#include "plugin/formats/json_text.h"

namespace moetap::plugin {
namespace {

constexpr int kOneLine = -1;  // nlohmann_json's value for "no indentation"
constexpr int kIndented = 1;

template <typename Json>
std::string text_of(const Json& value, int indentation, bool only_ascii) {
  return value.dump(indentation, ' ', only_ascii, Json::error_handler_t::replace);
}

}  // namespace

std::string compact_text(const nlohmann::json& value) {
  return text_of(value, kOneLine, /*only_ascii=*/false);
}

std::string compact_text(const nlohmann::ordered_json& value) {
  return text_of(value, kOneLine, /*only_ascii=*/false);
}

std::string ascii_text(const nlohmann::json& value) {
  return text_of(value, kOneLine, /*only_ascii=*/true);
}

std::string ascii_text(const nlohmann::ordered_json& value) {
  return text_of(value, kOneLine, /*only_ascii=*/true);
}

std::string quoted_text(const std::string& text) {
  return compact_text(nlohmann::json(text));
}

std::string indented_text(const nlohmann::ordered_json& value) {
  return text_of(value, kIndented, /*only_ascii=*/false) + "\n";
}

std::string short_text(const nlohmann::json& value) {
  constexpr size_t kLongest = 80;
  std::string text = compact_text(value);
  if (text.size() <= kLongest) {
    return text;
  }
  size_t end = kLongest;
  const auto continues_character = [&] { return (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80; };
  while (continues_character()) {
    --end;
  }
  return text.substr(0, end) + "...";
}

}  // namespace moetap::plugin
