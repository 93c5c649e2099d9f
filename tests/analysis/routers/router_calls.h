#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"
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

/// The paths by which a call is measured; every test of what comes out runs on each.
enum class Path { kReference, kOperations, kEmulatedKernel, kCuda };

inline std::string path_name(const testing::TestParamInfo<Path>& info) {
  constexpr const char* kNames[] = {"Reference", "Operations", "EmulatedKernel", "Cuda"};
  return kNames[static_cast<size_t>(info.param)];
}

/// Empty: the path can be taken here; else why not.
inline std::string missing_for(Path path) {
  return path == Path::kCuda ? missing_cuda() : path == Path::kEmulatedKernel ? missing_emulation() : "";
}

/// A normalized copy on the host.
inline RouterSums on_host(RouterSums sums) {
  sums.words = sums.words.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
  normalize(sums);
  return sums;
}

/// `observe_into` by one path. Tensors on the CPU, but on the device for kCuda.
inline void observe_into_on(Path path, RouterSums& sums, const RouterCall& call, const TokenRows& rows,
                            const TokenOutputs& outputs = {}, const TransitionFrom& transition = {},
                            const EmulatedLaunch& how = {}) {
  if (path == Path::kReference || path == Path::kCuda) {
    observe_into(sums, call, rows, outputs, transition);
    return;
  }
  check_call(call);
  check_rows(rows, call.selected.size(0), call.selected.device());
  check_outputs(call, outputs, transition);
  if (path == Path::kOperations) {
    observe_with_operations(sums, call, rows, outputs, transition);
  } else {
    observe_with_emulated_kernel(sums, call, rows, outputs, transition, how);
  }
}

inline at::Device device_of(Path path) {
  return path == Path::kCuda ? at::kCUDA : at::kCPU;
}

inline RouterSums observe_on(Path path, const RouterCall& call, const TokenRows& rows = {}) {
  const at::Device device = device_of(path);
  RouterSums sums = empty_router_sums(call.num_experts, call.selected.size(1), rows.num_rows, device);
  observe_into_on(path, sums, to_device(call, device), to_device(rows, device));
  return on_host(sums);
}

/// All that a call gives, on the host.
struct Observed {
  RouterSums sums;
  TokenOutputs outputs;
  at::Tensor transitions;  // int64 [experts before, E]
};

/// Slots of the router before: of `first_slot` int32 [num_tokens]; undefined: no transitions are asked for.
struct SlotsBefore {
  at::Tensor first_slot = {};
  int64_t num_experts = 1;
};

inline Observed observe_all_on(Path path, const RouterCall& call, const TokenRows& rows = {},
                               const SlotsBefore& before = {}, const EmulatedLaunch& how = {}) {
  const at::Device device = device_of(path);
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  const auto unwritten = [&](at::IntArrayRef sizes, at::ScalarType dtype) {
    return at::full(sizes, 77, at::TensorOptions().dtype(dtype).device(device));
  };
  Observed observed{
      empty_router_sums(call.num_experts, top_k, rows.num_rows, device),
      {unwritten({num_tokens, top_k}, at::kInt), unwritten({num_tokens, top_k}, at::kFloat),
       unwritten({num_tokens}, at::kInt), unwritten({num_tokens}, at::kFloat)},
      at::zeros({before.num_experts, call.num_experts}, at::TensorOptions().dtype(at::kLong).device(device))};
  TransitionFrom transition;
  if (before.first_slot.defined()) transition = {before.first_slot.to(device), observed.transitions};
  observe_into_on(path, observed.sums, to_device(call, device), to_device(rows, device), observed.outputs, transition,
                  how);
  observed.sums = on_host(observed.sums);
  TokenOutputs& outputs = observed.outputs;
  for (at::Tensor* tensor :
       {&outputs.selected, &outputs.weights, &outputs.first_slot, &outputs.margins, &observed.transitions}) {
    *tensor = tensor->cpu();
  }
  return observed;
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

/// A call of these ids and weights (none: empty), without logits.
inline RouterCall slots_call(std::vector<int64_t> ids, std::vector<float> weights, int64_t top_k, int64_t num_experts) {
  RouterCall call;
  call.num_experts = num_experts;
  call.selected = at::tensor(ids, at::kLong).view({-1, top_k});
  if (!weights.empty()) call.weights = at::tensor(weights, at::kFloat).view({-1, top_k});
  return call;
}

inline TokenRows rows_of(const std::vector<int64_t>& row, int64_t num_rows) {
  return TokenRows{at::tensor(row, at::kLong), num_rows};
}

}  // namespace moetap::analysis
