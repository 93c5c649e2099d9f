#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace moetap::cli {

/// The texts of token ids. Ids without one give "".
using TokenTexts = std::function<std::string(int32_t)>;

/// Of a tokenizer.json of Hugging Face: model.vocab (a map, or a list of pairs) and added_tokens. Byte-level letters
/// (Ġ for a space) stay as the file has them. Throws CommandError.
TokenTexts token_texts_of_tokenizer(const std::string& path);

/// Token id i is the i-th letter of the alphabet, in UTF-8.
TokenTexts token_texts_of_alphabet(const std::string& alphabet);

}  // namespace moetap::cli
