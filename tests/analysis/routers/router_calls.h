#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_sums.h"
#include "tests/analysis/devices.h"
#include "tests/analysis/emulated_kernels.h"

namespace moetap::analysis {

inline RouterCall to_device(RouterCall call, at::Device device) {
  for (at::Tensor* tensor : {&call.logits, &call.probabilities, &call.scores, &call.selected, &call.weights}) {
    if (tensor->defined()) *tensor = to_device(*tensor, device);
  }
  return call;
}

inline TokenRows to_device(TokenRows rows, at::Device device) {
  if (rows.row.defined()) rows.row = to_device(rows.row, device);
  if (rows.valid.defined()) rows.valid = to_device(rows.valid, device);
  return rows;
}

/// The ways to compute the sums; every test of what they are runs on each.
enum class Path { kReference, kOperations, kEmulatedKernel, kCuda };

inline std::string path_name(const testing::TestParamInfo<Path>& info) {
  constexpr const char* kNames[] = {"Reference", "Operations", "EmulatedKernel", "Cuda"};
  return kNames[static_cast<size_t>(info.param)];
}

/// Empty: the path can be taken here; else why not.
inline std::string missing_for(Path path) {
  return path == Path::kCuda ? missing_cuda() : path == Path::kEmulatedKernel ? missing_emulation() : "";
}

inline RouterSums observe_on(Path path, const RouterCall& call, const TokenRows& rows = {}) {
  if (path == Path::kReference) return observe(call, rows);
  if (path == Path::kCuda) return copy_to_host(observe(to_device(call, at::kCUDA), to_device(rows, at::kCUDA)));
  check_call(call);
  check_rows(rows, call.selected.size(0), call.selected.device());
  RouterSums sums = empty_router_sums(call.num_experts, call.selected.size(1), rows.num_rows);
  if (path == Path::kOperations) {
    observe_with_operations(sums, call, rows);
  } else {
    observe_with_emulated_kernel(sums, call, rows);
  }
  normalize(sums);
  return sums;
}

/// A test that runs on every path.
class PathTest : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    const std::string missing = missing_for(GetParam());
    if (!missing.empty()) GTEST_SKIP() << missing;
  }
};

inline auto all_paths() {
  return testing::Values(Path::kReference, Path::kOperations, Path::kEmulatedKernel, Path::kCuda);
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
