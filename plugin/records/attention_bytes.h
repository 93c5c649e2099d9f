#pragma once

#include <cstdint>
#include <string>

namespace moetap::plugin {

/// What `attention: full` keeps of one sample of a forward.
struct AttentionBytes {
  int64_t bytes = 0;              // of the layers that are known
  int64_t num_layers = 0;         // that are known
  int64_t num_unknown = 0;        // layers whose sizes only the run shows
  int64_t queries = 0, keys = 0;  // of the largest

  void add_layers(int64_t count, int64_t of_queries, int64_t of_keys);
  /// One line for the user.
  std::string text() const;
  /// Why that is refused, one line; empty: it is within the limit (attention_limit_bytes).
  std::string refusal(int64_t limit_bytes) const;
};

}  // namespace moetap::plugin
