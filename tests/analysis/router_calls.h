#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "analysis/observe_paths.h"
#include "analysis/router_sums.h"

namespace moetap::analysis {

/// The ways to compute the sums; every test of what they are runs on each.
enum class Path { kReference, kOperations };

inline std::string path_name(const testing::TestParamInfo<Path>& info) {
  return info.param == Path::kReference ? "Reference" : "Operations";
}

inline RouterSums observe_on(Path path, const RouterCall& call, const TokenRows& rows = {}) {
  if (path == Path::kReference) return observe(call, rows);
  check_call(call);
  check_rows(rows, call.selected.size(0), call.selected.device());
  RouterSums sums = empty_router_sums(call.num_experts, call.selected.size(1), rows.num_rows);
  observe_with_operations(sums, call, rows);
  normalize(sums);
  return sums;
}

struct CallSize {
  int64_t num_tokens = 0, num_experts = 0, top_k = 0;
};

/// A softmax router with random logits: the top-k in descending order, weights renormalised. The same seed gives the
/// same tokens.
inline RouterCall random_call(const CallSize& size, uint64_t seed, at::ScalarType dtype = at::kFloat) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 2);
  RouterCall call;
  call.num_experts = size.num_experts;
  at::Tensor logits = at::empty({size.num_tokens, size.num_experts});
  std::generate_n(logits.mutable_data_ptr<float>(), logits.numel(), [&] { return normal(random); });
  call.logits = logits.to(dtype);
  const auto [values, ids] = at::topk(at::softmax(call.logits.to(at::kFloat), 1), size.top_k, 1);
  call.selected = ids;
  call.weights = (values / values.sum(1, true)).to(dtype);
  return call;
}

/// The tokens with these numbers.
inline RouterCall take(const RouterCall& call, const std::vector<int64_t>& tokens) {
  const at::Tensor index = at::tensor(tokens, at::kLong);
  const auto rows = [&](const at::Tensor& tensor) { return tensor.defined() ? tensor.index_select(0, index) : tensor; };
  RouterCall part = call;
  part.logits = rows(call.logits);
  part.probabilities = rows(call.probabilities);
  part.scores = rows(call.scores);
  part.selected = rows(call.selected);
  part.weights = rows(call.weights);
  return part;
}

inline TokenRows rows_of(const std::vector<int64_t>& row, int64_t num_rows) {
  return TokenRows{at::tensor(row, at::kLong), num_rows};
}

}  // namespace moetap::analysis
