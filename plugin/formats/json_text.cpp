#include "plugin/formats/json_text.h"

namespace moetap::plugin {

std::string short_text(const nlohmann::json& value) {
  constexpr size_t kLongest = 80;
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
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
