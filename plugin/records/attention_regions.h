#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moetap::plugin {

/// The regions of a sequence that attention is counted between, as the key `attention_regions` names them.
struct AttentionRegions {
  static constexpr int64_t kMaxRegions = 16;

  enum class By {
    kParts,     // equal parts of a sequence's tokens, in order
    kTokens,    // token ids; tokens of other ids are the last region, "other"
    kArgument,  // an argument of the forward, integers [B, S]: the region of each token; others than 0 to 15 are the
                // last
  };
  struct TokenRegion {
    std::string name;
    std::vector<int64_t> ids;
    bool operator==(const TokenRegion&) const = default;
  };

  By by = By::kParts;
  int64_t parts = 5;
  std::vector<TokenRegion> tokens;
  std::string argument;

  int64_t num_regions() const;
  /// One for each region, for readers: "part 0", the names of kTokens and "other", "region 0".
  std::vector<std::string> names() const;

  /// Reads "parts:R", "tokens:NAME=ID[,ID]...;..." or "argument:NAME". Throws std::invalid_argument with one line.
  static AttentionRegions from_text(const std::string& text);
};

}  // namespace moetap::plugin
