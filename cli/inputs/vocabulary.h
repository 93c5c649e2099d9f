#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <unordered_map>

namespace moetap::cli {

/// The texts of token ids, of a file `tokenizer.json` (Hugging Face) or of a JSON object {token: id}. Byte-level tokens
/// are read back into text (Ġ is a blank), and the mark ▁ into a blank. A byte that is no whole character is shown as
/// one of the replacement kind: texts are UTF-8.
class Vocabulary {
 public:
  /// Throws CommandError with one line if the file cannot be read or is neither.
  explicit Vocabulary(const std::string& path);

  /// "" if it does not know the id.
  std::string text(int32_t id) const;

  /// {id: text} of the ids that it knows.
  nlohmann::ordered_json texts(const std::set<int32_t>& ids) const;

 private:
  std::unordered_map<int32_t, std::string> texts_;
};

}  // namespace moetap::cli
