#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace moetap::cli {

/// The texts of token ids, of a file `tokenizer.json` (Hugging Face) or of a JSON object {token: id}. Byte-level tokens
/// are read back into text, and the mark ▁ into a blank. A byte that is no whole character is shown as one of the
/// replacement kind.
class Vocabulary {
 public:
  /// Throws CommandError with one line if the file cannot be read or is neither.
  explicit Vocabulary(const std::string& path);

  /// {id: text} of the ids that it knows.
  nlohmann::ordered_json texts(const std::set<int32_t>& ids) const;

 private:
  std::map<int32_t, std::string> texts_;
};

}  // namespace moetap::cli
