// What it costs a GPU to measure an attention call with moetap's kernels, against LibTorch's own attention for the same
// tensors. Prints a table; without a CUDA device one line.
//
//   attention_kernel_benchmark
//   attention_kernel_benchmark --smoke   # short sequences
//
// Times are of the device, by events around several calls. Of short sequences they are the host's time to enqueue.
#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "analysis/attention/attention_device.h"
#include "analysis/attention/attention_kernel_arguments.h"
#include "analysis/attention/attention_sums.h"
#include "analysis/attention/sampled_rows.h"
#include "benchmarks/report.h"
#include "tests/support/cuda_device.h"

namespace moetap::benchmarks {
namespace {

constexpr int kSamples = 5, kCalls = 8;
constexpr int64_t kSampledRows = 64, kExperts = 128, kTopK = 8;
constexpr int64_t kMostTokensOfMatrix = 4096;

struct Size {
  int64_t tokens = 0, head_size = 0, heads = 0, key_heads = 0;
  bool causal = true;
  at::ScalarType dtype = at::kBFloat16;
};

/// Microseconds of a call, the median.
double device_us(const std::function<void()>& call) {
  const c10::impl::VirtualGuardImpl guard(at::kCUDA);
  const c10::Stream stream = guard.getStream(guard.getDevice());
  call();
  std::vector<double> samples;
  for (int sample = 0; sample < kSamples; ++sample) {
    c10::Event begin(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT), end(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    begin.record(stream);
    for (int i = 0; i < kCalls; ++i) call();
    end.record(stream);
    end.synchronize();
    samples.push_back(begin.elapsedTime(end) * 1000 / kCalls);
  }
  return quartiles(samples).median;
}

void measure(const Size& size, MarkdownTable& table) {
  const auto random = [&](int64_t heads) {
    return at::randn({1, heads, size.tokens, size.head_size}, at::TensorOptions().device(at::kCUDA).dtype(size.dtype));
  };
  const at::Tensor value = random(size.key_heads);
  analysis::AttentionCall call;
  call.query = random(size.heads);
  call.key = random(size.key_heads);
  call.scale = 1 / std::sqrt(static_cast<double>(size.head_size));
  call.causal = size.causal;
  analysis::AttentionTokens tokens;
  tokens.query_position = at::arange(size.tokens, call.query.options().dtype(at::kInt)).unsqueeze(0);
  tokens.key_position = tokens.query_position;
  analysis::AttentionTokens some = tokens;
  some.sampled = analysis::sampled_rows(1, at::zeros({1}, call.query.options().dtype(at::kLong)), "layer",
                                        tokens.query_position, kSampledRows);

  const double own = device_us([&] {
    at::scaled_dot_product_attention(call.query, call.key, value, {}, 0, size.causal, std::nullopt,
                                     size.heads != size.key_heads);
  });
  const double stats = device_us([&] { analysis::measure_attention(call, tokens); });
  const double sampled = device_us([&] { analysis::measure_attention(call, some); });
  const double operations =
      size.tokens > 4096 ? NAN : device_us([&] { analysis::measure_with_operations(call, tokens, {}); });
  const double full = size.tokens > kMostTokensOfMatrix
                          ? NAN
                          : device_us([&] { analysis::measure_attention(call, tokens, {/*matrix=*/true}); });
  const analysis::AttentionRows rows = analysis::measure_attention(call, tokens);
  analysis::AttentionSums sums = analysis::empty_attention_sums(size.heads, 5, true, kExperts, 1, at::kCUDA);
  const at::Tensor ids = at::randint(kExperts, {size.tokens, kTopK}, call.query.options().dtype(at::kInt));
  const at::Tensor weights = at::rand({size.tokens, kTopK}, call.query.options().dtype(at::kFloat));
  const auto of_new_sums = [&](const std::function<void()>& add) {
    return device_us([&] {
      sums.pending_terms = 0;  // they are not read
      add();
    });
  };
  const double by_sample = of_new_sums([&] { add_rows(sums, rows, {}); });
  const double by_expert = of_new_sums([&] { add_experts(sums, rows, {}, ids, weights); });
  const int64_t words = analysis::attention_scratch_words({1, size.heads, size.key_heads, size.tokens, size.tokens});
  table.add({fmt::format("{} x {}, {} of {} heads, {}{}", size.tokens, size.head_size, size.key_heads, size.heads,
                         toString(size.dtype), size.causal ? ", causal" : ""),
             fmt::format("{:.1f}", own), fmt::format("{:.2f}", 1 + stats / own),
             fmt::format("{:.1f}", 100 * sampled / own), std::isnan(full) ? "" : fmt::format("{:.2f}", 1 + full / own),
             fmt::format("{:.1f}", by_sample), fmt::format("{:.1f}", by_expert),
             std::isnan(operations) ? "" : fmt::format("{:.2f}", 1 + operations / own),
             fmt::format("{:.1f}", 8 * static_cast<double>(words) / (1 << 20))});
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  using namespace moetap::benchmarks;
  const bool smoke = smoke_requested(argc, argv);
  if (const std::string missing = moetap::analysis::missing_cuda(); !missing.empty()) {
    fmt::print("nothing measured: {}\n", missing);
    return missing == moetap::analysis::kNoCudaDevice ? 0 : 1;
  }
  const c10::NoGradGuard no_grad;
  MarkdownTable table({"tokens x head size, key heads", "attention us", "with stats x", "sampled, 64 rows, added %",
                       "with full x", "sums by sample us", "sums of 128 experts, top-8 us", "by operations x",
                       "memory of the kernels MiB"});
  for (const int64_t tokens : smoke ? std::vector<int64_t>{64} : std::vector<int64_t>{128, 1024, 4096, 16384}) {
    for (const int64_t head_size : {64, 128}) {
      measure({tokens, head_size, 8, 8}, table);
      measure({tokens, head_size, 32, 8}, table);
      measure({tokens, head_size, 8, 8, /*causal=*/false}, table);
      measure({tokens, head_size, 8, 8, /*causal=*/true, at::kFloat}, table);
    }
  }
  std::printf("%s\n", table.text().c_str());
  for (const auto& [reason, count] : moetap::analysis::refused_attention_calls()) {
    std::printf("not by kernels: %s (%lld calls)\n", reason.c_str(), static_cast<long long>(count));
  }
  return 0;
}
