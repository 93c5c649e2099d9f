#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace moetap::plugin {

/// How many tokens of each hook of a model were recorded with their logits, for the probe. Thread-safe.
class ProbedTokens {
 public:
  explicit ProbedTokens(size_t num_hooks) : tokens_(num_hooks) {}

  int64_t of(int64_t hook) const { return tokens_.at(static_cast<size_t>(hook)).load(); }
  void add(int64_t hook, int64_t tokens) { tokens_.at(static_cast<size_t>(hook)) += tokens; }

 private:
  std::vector<std::atomic<int64_t>> tokens_;
};

}  // namespace moetap::plugin
