// What it costs to observe one router call on the CPU: moetap's own loops against LibTorch operations for the same
// sums, and, for scale, against the softmax that the router itself computes. `_tokens`: with everything that is
// recorded of single tokens (ids, weights, first slots, margins).
//
//   router_sums_benchmark --benchmark_filter=observe --benchmark_repetitions=5
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include "analysis/routers/host_call.h"
#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"

namespace moetap::analysis {
namespace {

constexpr int64_t kRows = 1;

RouterCall make_call(int64_t num_tokens, int64_t num_experts, int64_t top_k) {
  at::manual_seed(0);
  RouterCall call;
  call.num_experts = num_experts;
  call.logits = at::randn({num_tokens, num_experts});
  const auto [values, ids] = at::topk(at::softmax(call.logits, 1), top_k, 1);
  call.selected = ids;
  call.weights = values / values.sum(1, true);
  return call;
}

RouterCall make_call(const benchmark::State& state) {
  return make_call(state.range(0), state.range(1), std::min<int64_t>(8, state.range(1) / 4));
}

void count_tokens(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void observe_loops(benchmark::State& state) {
  const RouterCall call = make_call(state);
  for (auto _ : state) benchmark::DoNotOptimize(observe(call, TokenRows{{}, kRows}).words.const_data_ptr());
  count_tokens(state);
}

void observe_operations(benchmark::State& state) {
  const RouterCall call = make_call(state);
  for (auto _ : state) {
    RouterSums sums = empty_router_sums(call.num_experts, call.selected.size(1), kRows);
    observe_with_operations(sums, call, TokenRows{{}, kRows});
    benchmark::DoNotOptimize(sums.words.const_data_ptr());
  }
  count_tokens(state);
}

void observe_loops_tokens(benchmark::State& state) {
  const RouterCall call = make_call(state);
  const int64_t num_tokens = call.selected.size(0), top_k = call.selected.size(1);
  const TokenOutputs outputs{at::empty({num_tokens, top_k}, at::kInt), at::empty({num_tokens, top_k}),
                             at::empty({num_tokens}, at::kInt), at::empty({num_tokens})};
  for (auto _ : state) {
    RouterSums sums = empty_router_sums(call.num_experts, top_k, kRows);
    observe_into(sums, call, TokenRows{{}, kRows}, outputs);
    benchmark::DoNotOptimize(sums.words.const_data_ptr());
  }
  count_tokens(state);
}

/// The same tokens, in plain memory and added to sums that are there.
void observe_memory(benchmark::State& state) {
  const RouterCall call = make_call(state);
  const auto plane = [](const at::Tensor& tensor) {
    return HostPlane{tensor.const_data_ptr(), tensor.scalar_type(), tensor.stride(0)};
  };
  HostRouterCall host;
  host.num_tokens = call.selected.size(0);
  host.num_experts = call.num_experts;
  host.top_k = call.selected.size(1);
  host.logits = plane(call.logits);
  host.selected = plane(call.selected);
  host.weights = plane(call.weights);
  RouterSums sums = empty_router_sums(call.num_experts, host.top_k, kRows);
  const HostSums host_sums{sums.words.mutable_data_ptr<int64_t>(), sums.layout(), sums.has_pairs};
  for (auto _ : state) {
    observe_host(host, host_sums);
    benchmark::ClobberMemory();
  }
  count_tokens(state);
}

void router_softmax(benchmark::State& state) {
  const RouterCall call = make_call(state);
  for (auto _ : state) benchmark::DoNotOptimize(at::softmax(call.logits, 1).const_data_ptr());
  count_tokens(state);
}

const std::vector<std::vector<int64_t>> kSizes = {{1, 16, 64, 1024, 8192}, {8, 64, 128, 256}};

BENCHMARK(observe_loops)->ArgsProduct(kSizes)->ArgNames({"T", "E"})->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(observe_memory)->ArgsProduct(kSizes)->ArgNames({"T", "E"})->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(observe_operations)->ArgsProduct(kSizes)->ArgNames({"T", "E"})->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(router_softmax)->ArgsProduct(kSizes)->ArgNames({"T", "E"})->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(observe_loops_tokens)
    ->ArgsProduct(kSizes)
    ->ArgNames({"T", "E"})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace moetap::analysis

BENCHMARK_MAIN();
