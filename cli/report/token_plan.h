#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace moetap::cli {

/// What a token costs in one layer.
struct TokenLayer {
  int64_t width = 0;  // experts a token
  int64_t num_experts = 0;
  bool has_weights = false, has_received = false;
};

/// Which tokens a page shows.
struct TokenPlan {
  std::vector<size_t> samples, layers;  // places, ascending
  int64_t max_tokens = 0;               // of a sample
  bool rounds = false;                  // weights have 4 digits
  std::string note;                     // what is left out, in sentences; "": nothing
};

/// Chooses from samples of these lengths, in the order of the dump: the first `max_samples`, and of each the first
/// `max_tokens` tokens, as long as that fits `max_bytes`. Else weights are rounded; then layers, samples and tokens are
/// left out, in this order: layers and samples evenly, the first and the last layer stay.
/// `sample_bytes`: of what a sample has beside its tokens.
TokenPlan plan_tokens(const std::vector<int64_t>& lengths, const std::vector<TokenLayer>& layers, int64_t sample_bytes,
                      int64_t max_samples, int64_t max_tokens, int64_t max_bytes);

}  // namespace moetap::cli
