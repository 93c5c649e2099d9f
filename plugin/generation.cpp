#include "plugin/generation.h"

#include <algorithm>

namespace moetap::plugin {

std::optional<std::vector<int64_t>> GenerationFollower::continued(const QueryTokens& query) {
  if (samples_.empty() || query.length != 1 || query.batch != static_cast<int64_t>(samples_.size())) {
    return std::nullopt;
  }
  const bool covers_cache = query.mask_columns > 1;
  if (covers_cache && query.mask_columns != cached_tokens_ + 1 && query.mask_columns != static_columns_) {
    return std::nullopt;
  }
  ++cached_tokens_;
  return samples_;
}

void GenerationFollower::started(const QueryTokens& query, const std::vector<int64_t>& samples) {
  if (query.length <= 1) return;  // no prompt: an encoder's call between two steps, or the step of another request
  samples_ = samples;
  cached_tokens_ = std::max(query.length, query.mask_columns);
  static_columns_ = query.mask_columns > query.length ? query.mask_columns : 0;
}

}  // namespace moetap::plugin
