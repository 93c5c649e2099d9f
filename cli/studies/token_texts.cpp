#include "cli/studies/token_texts.h"

#include <memory>
#include <vector>

#include "cli/inputs/vocabulary.h"

namespace moetap::cli {

TokenTexts token_texts_of_tokenizer(const std::string& path) {
  const auto vocabulary = std::make_shared<const Vocabulary>(path);
  return [vocabulary](int32_t id) { return vocabulary->text(id); };
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
