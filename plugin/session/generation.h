#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace moetap::plugin {

// Note [Following generation]
// A host that generates with a key-value cache runs a long forward (the prompt) and then forwards of one token a
// sequence. Where it labels none of them (an unchanged host), they are told apart by a rule: a forward with more than
// one query token a sequence is a prompt and starts new samples; one with a single query token a sequence continues
// the samples of the thread's last prompt on the same model, row by row, if the batch has as many rows. A mask that
// covers the cache must agree: it grows by a column a step, or keeps the size of a static cache. A forward that does
// not agree starts new samples, as it would without the rule.

/// The query tokens of a forward.
struct QueryTokens {
  int64_t batch = 0;         // B
  int64_t length = 0;        // S of the forward itself, without what the cache holds; 0: it has no text
  int64_t mask_columns = 0;  // of a mask over cache and query; 0: there is no mask
};

/// Tells which samples the forwards of one model on one thread of the host continue. Not thread-safe.
class GenerationFollower {
 public:
  /// True if a forward continues `samples()`, row by row; else it starts new ones.
  bool continues(const QueryTokens& query) const;

  /// The samples of the last prompt; empty: nothing can be continued.
  const std::vector<int64_t>& samples() const { return samples_; }

  /// Call it when a forward that holds `samples` has ended.
  void ended(const QueryTokens& query, c10::IntArrayRef samples);

 private:
  std::vector<int64_t> samples_;
  int64_t cached_tokens_ = 0;   // a sequence
  int64_t static_columns_ = 0;  // of the mask over a static cache; 0: the cache grows
};

}  // namespace moetap::plugin
