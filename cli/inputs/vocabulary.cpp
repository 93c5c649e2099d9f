#include "cli/inputs/vocabulary.h"

#include <fmt/format.h>

#include <fstream>
#include <limits>
#include <map>
#include <string_view>

#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using nlohmann::ordered_json;

/// The characters of a UTF-8 text, one after the other; 0xFFFD for bytes that are none.
template <typename Use>
void for_characters(std::string_view text, const Use& use) {
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
    if (length == 0 || i + length > text.size()) {
      use(uint32_t{0xFFFD}, text.substr(i, 1));
      ++i;
      continue;
    }
    uint32_t code = length == 1 ? first : first & (0xFFu >> (length + 1));
    for (size_t k = 1; k < length; ++k) code = code << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3Fu);
    use(code, text.substr(i, length));
    i += length;
  }
}

bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

/// In UTF-8, with the replacement character for each byte that is none.
std::string whole_characters(const std::string& text) {
  const auto replaced = ordered_json(text).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  return ordered_json::parse(replaced).get<std::string>();
}

/// Byte-level BPE writes each byte as a character that can be printed: those that can stand for themselves, the others
/// follow from 256 on, in their order.
std::string from_byte_level(const std::string& token) {
  static const std::map<uint32_t, char> bytes = [] {
    std::map<uint32_t, char> known;
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte)
      known[stands_for_itself(byte) ? byte : next++] = static_cast<char>(byte);
    return known;
  }();
  std::string text;
  for_characters(token, [&](uint32_t code, std::string_view character) {
    const auto byte = bytes.find(code);
    if (byte == bytes.end()) {
      text += character;
    } else {
      text += byte->second;
    }
  });
  return text;
}

std::string from_pieces(const std::string& token) {
  std::string text;
  for_characters(token, [&](uint32_t code, std::string_view character) {
    if (code == 0x2581) {
      text += ' ';
    } else {
      text += character;
    }
  });
  return text;
}

bool is_id(const ordered_json& value) {
  return value.is_number_integer() && value >= 0 && value <= std::numeric_limits<int32_t>::max();
}

bool is_byte_level(const ordered_json& part) {
  if (part.is_object() && part.value("type", ordered_json()) == "ByteLevel") return true;
  if (!part.is_structured()) return false;
  for (const auto& one : part) {
    if (is_byte_level(one)) return true;
  }
  return false;
}

}  // namespace

Vocabulary::Vocabulary(const std::string& path) {
  std::ifstream stream(path);
  if (!stream) throw CommandError(fmt::format("{}: cannot be read", path));
  const ordered_json file = ordered_json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (!file.is_object()) throw CommandError(fmt::format("{}: is no JSON object", path));
  const auto model = file.find("model");
  const bool is_tokenizer = model != file.end() && model->is_object() && model->contains("vocab");
  const bool byte_level = is_tokenizer && (is_byte_level(file.value("decoder", ordered_json())) ||
                                           is_byte_level(file.value("pre_tokenizer", ordered_json())));
  const auto add = [&](const ordered_json& id, const std::string& token) {
    if (is_id(id))
      texts_[id.get<int32_t>()] = whole_characters(byte_level ? from_byte_level(token) : from_pieces(token));
  };
  const ordered_json& tokens = is_tokenizer ? (*model)["vocab"] : file;
  if (tokens.is_object()) {
    for (const auto& [token, id] : tokens.items()) add(id, token);
  } else {
    int32_t id = 0;
    for (const auto& piece : tokens) {
      if (piece.is_array() && !piece.empty() && piece[0].is_string()) add(id, piece[0].get<std::string>());
      ++id;
    }
  }
  const ordered_json added = file.value("added_tokens", ordered_json::array());
  for (const auto& token : added) {
    if (token.is_object() && is_id(token.value("id", ordered_json())) &&
        token.value("content", ordered_json()).is_string()) {
      texts_[token["id"].get<int32_t>()] = token["content"].get<std::string>();
    }
  }
  if (texts_.empty()) throw CommandError(path + ": is no tokenizer.json and no object of tokens and ids");
}

std::string Vocabulary::text(int32_t id) const {
  const auto found = texts_.find(id);
  return found == texts_.end() ? "" : found->second;
}

ordered_json Vocabulary::texts(const std::set<int32_t>& ids) const {
  ordered_json json = ordered_json::object();
  for (const int32_t id : ids) {
    const auto found = texts_.find(id);
    if (found != texts_.end()) json[std::to_string(id)] = found->second;
  }
  return json;
}

}  // namespace moetap::cli
