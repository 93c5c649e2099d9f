#include "plugin/session/generation.h"

#include <algorithm>

namespace moetap::plugin {

bool GenerationFollower::continues(const QueryTokens& query) const {
  if (samples_.empty() || query.length != 1 || query.batch != static_cast<int64_t>(samples_.size())) return false;
  const bool covers_cache = query.mask_columns > 1;
  return !covers_cache || query.mask_columns == cached_tokens_ + 1 || query.mask_columns == static_columns_;
}

void GenerationFollower::ended(const QueryTokens& query, c10::IntArrayRef samples) {
  if (query.length > 1) {
    samples_ = samples.vec();
    cached_tokens_ = std::max(query.length, query.mask_columns);
    static_columns_ = query.mask_columns > query.length ? query.mask_columns : 0;
  } else if (continues(query) && samples == c10::IntArrayRef(samples_)) {
    ++cached_tokens_;
  }
  // Else it is neither a prompt nor a step of the last one: an encoder's call between steps, or another request's step.
}

}  // namespace moetap::plugin
