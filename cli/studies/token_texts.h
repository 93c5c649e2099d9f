#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace moetap::cli {

/// The texts of token ids. Ids without one give "".
using TokenTexts = std::function<std::string(int32_t)>;

/// Of a file that `Vocabulary` reads. Throws CommandError.
TokenTexts token_texts_of_tokenizer(const std::string& path);

/// Token id i is the i-th letter of the alphabet, in UTF-8.
TokenTexts token_texts_of_alphabet(const std::string& alphabet);

}  // namespace moetap::cli
