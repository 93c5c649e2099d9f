// What it costs to observe one router call on CUDA: moetap's kernel against LibTorch operations that do the same, and
// against the softmax that the router itself computes. Prints a table; without a CUDA device one line.
//
//   router_kernel_benchmark --benchmark_filter='kernel/.*/E:128'
//   router_kernel_benchmark --smoke
#include <ATen/ATen.h>

#include <benchmark/benchmark.h>
#include <c10/core/Event.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <string_view>
#include <vector>

#include "analysis/routers/observe_paths.h"
#include "analysis/routers/router_sums.h"
#include "analysis/routers/token_outputs.h"
#include "benchmarks/report.h"
#include "tests/support/cuda_device.h"

// Note [Device time of enqueued calls]
// A call takes the device less time than the host needs to enqueue it, so events around calls on an idle device would
// measure the host. Calls are therefore enqueued behind matrix products that keep the device busy until the last call
// is enqueued. If the device reached the first call earlier, the sample is taken again behind more products. The gap
// between two calls of one stream, about a microsecond, is part of the figure, as it is in a forward. If the tensors
// fit into the device's cache, all calls but the first find them there, as they do in a forward, where the router has
// just written them.
namespace moetap::analysis {
namespace {

constexpr int kSamples = 7;
constexpr int64_t kProductSize = 8192;  // [n, n] x [n, n] bfloat16: 1 to 2 ms of a large GPU
constexpr int64_t kCopiedBytes = int64_t{1} << 30;
constexpr int kMostProducts = 256;

double microseconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

struct CallTime {
  double device_us = 0;  // of one call
  double host_us = 0;    // of enqueueing one call
};

/// Measures on the current stream of the current CUDA device.
class DeviceClock {
 public:
  DeviceClock() : factor_(at::randn({kProductSize, kProductSize}, on_device(at::kBFloat16))) {
    product_ = at::mm(factor_, factor_);
    // A copy reads and writes every byte, hence the factor 2.
    const at::Tensor from = at::ones({kCopiedBytes}, on_device(at::kByte)), to = at::empty_like(from);
    const double us = time(4, [&] { to.copy_(from); }).device_us;
    copy_bytes_per_us_ = 2.0 * static_cast<double>(kCopiedBytes) / us;
  }

  static at::TensorOptions on_device(at::ScalarType dtype) {
    return at::TensorOptions().dtype(dtype).device(at::kCUDA);
  }

  double copy_bytes_per_us() const { return copy_bytes_per_us_; }

  /// Medians of kSamples series of `num_calls` calls.
  template <typename Call>
  CallTime time(int num_calls, const Call& call) {
    call();  // allocates what it needs, and loads kernels
    stream().synchronize();
    std::vector<double> device, host;
    int num_products = 1;
    while (device.size() < kSamples) {
      c10::Event begin(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT), end(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
      for (int i = 0; i < num_products; ++i) at::mm_out(product_, factor_, factor_);
      begin.record(stream());
      const auto enqueued = std::chrono::steady_clock::now();
      for (int i = 0; i < num_calls; ++i) call();
      const double host_us = microseconds_since(enqueued);
      const bool device_waited = begin.query();
      end.record(stream());
      end.synchronize();
      if (device_waited && num_products < kMostProducts) {
        num_products *= 2;
        continue;
      }
      TORCH_CHECK(!device_waited, "the device is done with ", num_products, " products before ", num_calls,
                  " calls are enqueued; free the processor of other work");
      device.push_back(begin.elapsedTime(end) * 1000 / num_calls);
      host.push_back(host_us / num_calls);
    }
    return {benchmarks::quartiles(device).median, benchmarks::quartiles(host).median};
  }

 private:
  static c10::Stream stream() {
    const c10::impl::VirtualGuardImpl guard(at::kCUDA);
    return guard.getStream(guard.getDevice());
  }

  at::Tensor factor_, product_;
  double copy_bytes_per_us_ = 0;
};

DeviceClock& device_clock() {
  static DeviceClock clock;
  return clock;
}

struct Size {
  int64_t num_tokens = 0, num_experts = 0;
  at::ScalarType dtype = at::kFloat;

  int64_t top_k() const { return num_experts <= 8 ? 2 : 8; }
  bool operator<(const Size& other) const {
    return std::tie(dtype, num_experts, num_tokens) < std::tie(other.dtype, other.num_experts, other.num_tokens);
  }
};

/// A call, and everything that is computed from it.
struct Measured {
  RouterCall call;
  TokenRows rows;
  RouterSums sums;
  TokenOutputs outputs;
};

Measured make_measured(const Size& size) {
  at::manual_seed(0);
  const auto options = DeviceClock::on_device(size.dtype);
  Measured measured;
  measured.call.num_experts = size.num_experts;
  measured.call.logits = at::randn({size.num_tokens, size.num_experts}, options);
  const auto [values, ids] = at::topk(at::softmax(measured.call.logits, 1), size.top_k(), 1);
  measured.call.selected = ids;
  measured.call.weights = values / values.sum(1, true);
  measured.sums = empty_router_sums(size.num_experts, size.top_k(), measured.rows.num_rows, options.device());
  measured.outputs = {at::empty({size.num_tokens, size.top_k()}, DeviceClock::on_device(at::kInt)),
                      at::empty({size.num_tokens, size.top_k()}, DeviceClock::on_device(at::kFloat)),
                      at::empty({size.num_tokens}, DeviceClock::on_device(at::kInt)),
                      at::empty({size.num_tokens}, DeviceClock::on_device(at::kFloat))};
  return measured;
}

/// Bytes that the kernel must at least read and write. The sums are left out: they are few.
double bytes_moved(const Measured& measured) {
  size_t bytes = 0;
  for (const at::Tensor* tensor :
       {&measured.call.logits, &measured.call.selected, &measured.call.weights, &measured.outputs.selected,
        &measured.outputs.weights, &measured.outputs.first_slot, &measured.outputs.margins}) {
    bytes += tensor->nbytes();
  }
  return static_cast<double>(bytes);
}

enum class Way { kKernel, kOperations, kSoftmax };

/// Calls in one sample. Few for the operations, which take a hundred launches a call: the queue of launches is bounded.
int calls_of_sample(Way way) {
  return way == Way::kOperations ? 2 : 32;
}

/// The times of every benchmark that was run.
std::map<Size, std::map<Way, CallTime>>& results() {
  static std::map<Size, std::map<Way, CallTime>> results;
  return results;
}

void measure(benchmark::State& state, Way way, at::ScalarType dtype) {
  const Size size{state.range(0), state.range(1), dtype};
  Measured measured = make_measured(size);
  const auto call = [&] {
    measured.sums.pending_terms = 0;  // the sums are not read
    switch (way) {
      case Way::kKernel:
        return observe_into(measured.sums, measured.call, measured.rows, measured.outputs);
      case Way::kOperations:
        return observe_with_operations(measured.sums, measured.call, measured.rows, measured.outputs);
      case Way::kSoftmax:
        benchmark::DoNotOptimize(at::softmax(measured.call.logits, 1).unsafeGetTensorImpl());
    }
  };
  for (auto _ : state) {
    try {
      const CallTime time = device_clock().time(calls_of_sample(way), call);
      state.SetIterationTime(time.device_us * 1e-6);
      results()[size][way] = time;
    } catch (const std::exception& error) {
      state.SkipWithError(error.what());
      break;
    }
  }
}

void add_benchmarks(bool smoke) {
  const std::vector<int64_t> tokens =
      smoke ? std::vector<int64_t>{1, 64} : std::vector<int64_t>{1, 16, 64, 256, 1024, 8192, 65536};
  const std::vector<int64_t> experts = smoke ? std::vector<int64_t>{8} : std::vector<int64_t>{8, 64, 128, 256};
  for (const auto& [way, name] : {std::pair(Way::kKernel, "kernel"), std::pair(Way::kOperations, "operations"),
                                  std::pair(Way::kSoftmax, "softmax")}) {
    for (const auto& [dtype, dtype_name] : {std::pair(at::kBFloat16, "bf16"), std::pair(at::kFloat, "fp32")}) {
      benchmark::RegisterBenchmark(fmt::format("{}/{}", name, dtype_name).c_str(), measure, way, dtype)
          ->ArgsProduct({tokens, experts})
          ->ArgNames({"T", "E"})
          ->UseManualTime()
          ->Iterations(1)  // which takes the median of samples itself
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

/// Prints progress on stderr; the table is printed at the end.
class ProgressReporter : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.error_occurred) failed_ = true;
      std::fprintf(stderr, "%s %s\n", run.benchmark_name().c_str(), run.error_message.c_str());
    }
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

void print_results() {
  benchmarks::MarkdownTable table({"logits", "experts", "top-k", "tokens", "kernel us", "enqueueing it us",
                                   "operations us", "enqueueing them us", "softmax us", "bytes / bandwidth us",
                                   "operations / kernel"});
  for (const auto& [size, times] : results()) {
    const auto cell = [&times](Way way, double CallTime::*value) {
      const auto found = times.find(way);
      return found == times.end() ? std::string() : fmt::format("{:.2f}", found->second.*value);
    };
    const bool both = times.contains(Way::kKernel) && times.contains(Way::kOperations);
    table.add(
        {std::string(size.dtype == at::kFloat ? "fp32" : "bf16"), std::to_string(size.num_experts),
         std::to_string(size.top_k()), std::to_string(size.num_tokens), cell(Way::kKernel, &CallTime::device_us),
         cell(Way::kKernel, &CallTime::host_us), cell(Way::kOperations, &CallTime::device_us),
         cell(Way::kOperations, &CallTime::host_us), cell(Way::kSoftmax, &CallTime::device_us),
         fmt::format("{:.2f}", bytes_moved(make_measured(size)) / device_clock().copy_bytes_per_us()),
         both ? fmt::format("{:.0f}", times.at(Way::kOperations).device_us / times.at(Way::kKernel).device_us) : ""});
  }
  fmt::print("Device time of one call, median of {} samples; {}\n\nCopying {} MiB: {:.0f} GB/s.\n\n{}", kSamples,
             benchmarks::describe_environment(), kCopiedBytes >> 20, device_clock().copy_bytes_per_us() / 1000,
             table.text());
}

}  // namespace
}  // namespace moetap::analysis

int main(int argc, char** argv) {
  using namespace moetap::analysis;
  const bool smoke = argc == 2 && std::string_view(argv[1]) == "--smoke";
  if (!smoke) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  }
  if (const std::string missing = missing_cuda(); !missing.empty()) {
    fmt::print("nothing measured: {}\n", missing);
    return missing == kNoCudaDevice ? 0 : 1;
  }
  const c10::NoGradGuard no_grad;
  add_benchmarks(smoke);
  ProgressReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  print_results();
  return reporter.failed() ? 1 : 0;
}
