#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "analysis/attention/attention_rows.h"

namespace moetap::analysis {

/// A call and what its tokens are.
struct CallOfTest {
  std::string name;
  AttentionCall call;
  AttentionTokens tokens;
};

inline at::Tensor ints(std::vector<int32_t> values, at::IntArrayRef sizes) {
  return at::tensor(values, at::kInt).view(sizes);
}

/// Positions [B, S] of sequences of these lengths, padded to S on the left or on the right.
inline at::Tensor positions_of(const std::vector<int64_t>& lengths, int64_t size, bool left = false) {
  at::Tensor positions = at::full({static_cast<int64_t>(lengths.size()), size}, -1, at::kInt);
  for (size_t b = 0; b < lengths.size(); ++b) {
    positions[static_cast<int64_t>(b)]
        .narrow(0, left ? size - lengths[b] : 0, lengths[b])
        .copy_(at::arange(lengths[b], at::kInt));
  }
  return positions;
}

struct SizesOfTest {
  int64_t sequences = 1, heads = 1, key_heads = 1, queries = 1, keys = 1, depth = 8;
};

/// A call of random queries and keys, all tokens valid.
inline CallOfTest random_call(const SizesOfTest& sizes, uint64_t seed = 1) {
  at::manual_seed(seed);
  CallOfTest test;
  test.call.query = at::randn({sizes.sequences, sizes.heads, sizes.queries, sizes.depth});
  test.call.key = at::randn({sizes.sequences, sizes.key_heads, sizes.keys, sizes.depth});
  test.call.scale = 1.0 / std::sqrt(static_cast<double>(sizes.depth));
  test.tokens.self = sizes.queries == sizes.keys;
  test.tokens.query_position = positions_of(std::vector<int64_t>(sizes.sequences, sizes.queries), sizes.queries);
  test.tokens.key_position = positions_of(std::vector<int64_t>(sizes.sequences, sizes.keys), sizes.keys);
  return test;
}

/// The scores that the call's softmax reads, in double precision.
inline at::Tensor scores_of(const AttentionCall& call) {
  const int64_t group = call.query.size(1) / call.key.size(1);
  at::Tensor scores =
      at::matmul(call.query.to(at::kDouble), call.key.to(at::kDouble).repeat_interleave(group, 1).transpose(2, 3)) *
      call.scale;
  if (call.mask.defined()) {
    scores = call.mask.scalar_type() == at::kBool ? scores.masked_fill(call.mask.logical_not(), -HUGE_VAL)
                                                  : scores + call.mask;
  }
  if (call.causal) {
    scores = scores.masked_fill(at::ones(scores.sizes(), at::kBool).triu(1), -HUGE_VAL);
  }
  return scores;
}

/// The same call as a model that makes its probabilities itself reports it.
inline CallOfTest with_probabilities(const CallOfTest& test, at::ScalarType type = at::kFloat) {
  CallOfTest given{test.name + ", given", {}, test.tokens};
  const at::Tensor scores = scores_of(test.call);
  given.call.scores = scores.to(type);
  given.call.probabilities = at::softmax(scores, 3).to(type);
  return given;
}

/// The same call with what LibTorch's kernel gives beside its output.
inline CallOfTest with_log_sums(const CallOfTest& test) {
  CallOfTest result = test;
  result.name += ", log sums";
  result.call.log_sum_exp = at::logsumexp(scores_of(test.call), 3).to(at::kFloat);
  return result;
}

}  // namespace moetap::analysis
