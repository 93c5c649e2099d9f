#include "cli/studies/token_texts.h"

#include <fmt/format.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <vector>

#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

using Texts = std::unordered_map<int64_t, std::string>;

void read_vocabulary(const nlohmann::json& vocabulary, Texts& texts) {
  if (vocabulary.is_object()) {
    for (const auto& [text, id] : vocabulary.items()) {
      if (id.is_number_integer()) texts.emplace(id.get<int64_t>(), text);
    }
  } else if (vocabulary.is_array()) {  // of Unigram models: [text, score]
    for (size_t id = 0; id < vocabulary.size(); ++id) {
      const nlohmann::json& entry = vocabulary[id];
      if (entry.is_array() && !entry.empty() && entry[0].is_string()) {
        texts.emplace(static_cast<int64_t>(id), entry[0].get<std::string>());
      }
    }
  }
}

}  // namespace

TokenTexts token_texts_of_tokenizer(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw CommandError(fmt::format("--tokenizer: {} cannot be read", path));
  const auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  auto texts = std::make_shared<Texts>();
  if (json.is_object()) {
    if (const auto added = json.find("added_tokens"); added != json.end() && added->is_array()) {
      for (const auto& token : *added) {
        if (token.is_object() && token.contains("id") && token["id"].is_number_integer() && token.contains("content") &&
            token["content"].is_string()) {
          texts->emplace(token["id"].get<int64_t>(), token["content"].get<std::string>());
        }
      }
    }
    const auto model = json.find("model");
    if (model != json.end() && model->is_object() && model->contains("vocab"))
      read_vocabulary((*model)["vocab"], *texts);
  }
  if (texts->empty()) {
    throw CommandError(fmt::format("--tokenizer: {} is no tokenizer.json: it has no model.vocab", path));
  }
  return [texts](int32_t id) {
    const auto found = texts->find(id);
    return found == texts->end() ? std::string() : found->second;
  };
}

TokenTexts token_texts_of_alphabet(const std::string& alphabet) {
  auto letters = std::make_shared<std::vector<std::string>>();
  for (const char byte : alphabet) {
    const bool continues = (static_cast<unsigned char>(byte) & 0xc0U) == 0x80U;
    if (!continues || letters->empty()) letters->emplace_back();
    letters->back() += byte;
  }
  return [letters](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < letters->size() ? (*letters)[static_cast<size_t>(id)] : std::string();
  };
}

}  // namespace moetap::cli
