// What it costs to measure an attention call on the CPU, against LibTorch's own attention for the same tensors.
//
//   attention_benchmark           # prints the table of RESULTS.md
//   attention_benchmark --smoke   # a second, short sequences
//
// It does not use google-benchmark, since what is compared must be run in turns: the machine may be shared, and other
// load can only add to a time. For the same reason one thread of LibTorch works, and each figure is the least processor
// time of several runs.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "analysis/attention/attention_rows.h"
#include "analysis/attention/attention_sums.h"
#include "analysis/attention/sampled_rows.h"
#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"

namespace moetap::benchmarks {
namespace {

constexpr int64_t kSampledRows = 64;
constexpr int64_t kRegions = 5;

struct Size {
  int64_t tokens = 0, head_size = 0, heads = 0, key_heads = 0;
  bool causal = true;
  bool last_alone = false;  // a step of generation: one query, behind a cache of the other tokens
  int64_t queries() const { return last_alone ? 1 : tokens; }
};

class Case {
 public:
  explicit Case(const Size& size) : size_(size) {
    at::manual_seed(0);
    query_ = at::randn({1, size.heads, size.queries(), size.head_size});
    key_ = at::randn({1, size.key_heads, size.tokens, size.head_size});
    value_ = at::randn({1, size.key_heads, size.tokens, size.head_size});
    tokens_.key_position = at::arange(size.tokens, at::kInt).unsqueeze(0);
    tokens_.query_position = tokens_.key_position.slice(1, size.tokens - size.queries());
    tokens_.self = !size.last_alone;
    tokens_.num_regions = kRegions;
    call_.query = query_;
    call_.key = key_;
    call_.scale = 1 / std::sqrt(static_cast<double>(size.head_size));
    call_.causal = size.causal;
  }

  /// The model's own attention, as it calls it.
  void attend() const {
    at::scaled_dot_product_attention(query_, key_, value_, {}, 0, size_.causal, std::nullopt,
                                     size_.heads != size_.key_heads);
  }

  void take_log_sums() {
    const int64_t group = size_.heads / size_.key_heads;
    log_sum_exp_ = std::get<1>(at::_scaled_dot_product_flash_attention_for_cpu(
        query_, key_.repeat_interleave(group, 1), value_.repeat_interleave(group, 1), 0, size_.causal));
  }

  enum class What { kLogSums, kAlone, kSampled, kMatrix };

  void measure(What what) const {
    analysis::AttentionCall call = call_;
    analysis::AttentionTokens tokens = tokens_;
    if (what != What::kAlone) call.log_sum_exp = log_sum_exp_;
    if (what == What::kSampled) {
      tokens.sampled =
          analysis::sampled_rows(1, at::zeros({1}, at::kLong), "layer", tokens.query_position, kSampledRows);
    }
    const analysis::AttentionRows rows = measure_attention(call, tokens, {what == What::kMatrix});
    analysis::AttentionSums sums = analysis::empty_attention_sums(size_.heads, kRegions, tokens_.self, 0, 1);
    add_rows(sums, rows, at::zeros({1}, at::kLong));
  }

 private:
  const Size size_;
  at::Tensor query_, key_, value_, log_sum_exp_;
  analysis::AttentionTokens tokens_;
  analysis::AttentionCall call_;
};

template <typename Work>
void keep_least(double& least, const Work& work) {
  const double began = process_cpu_seconds();
  work();
  least = std::min(least, process_cpu_seconds() - began);
}

void measure(const Size& size, bool smoke, MarkdownTable& table) {
  using What = Case::What;
  Case test(size);
  test.take_log_sums();
  constexpr double kNever = std::numeric_limits<double>::infinity();
  double own = kNever, with_log_sums = kNever, alone = kNever, sampled = kNever, full = kNever;
  const double began = process_cpu_seconds();
  const bool with_matrix = size.tokens <= 4096;
  const int least_runs = smoke || size.tokens > 4096 ? 1 : 2;
  for (int run = 0; run < least_runs || (!smoke && process_cpu_seconds() - began < 1); ++run) {
    keep_least(own, [&] { test.attend(); });
    keep_least(with_log_sums, [&] { test.measure(What::kLogSums); });
    keep_least(own, [&] { test.attend(); });
    keep_least(alone, [&] { test.measure(What::kAlone); });
    keep_least(sampled, [&] { test.measure(What::kSampled); });
    if (with_matrix) keep_least(full, [&] { test.measure(What::kMatrix); });
  }
  const auto peak_of = [&](What what) {
    const int64_t before = resident_memory().bytes;
    reset_peak_resident();
    test.measure(what);
    return static_cast<double>(peak_resident_bytes() - before) / (1 << 20);
  };
  const double peak = peak_of(What::kLogSums), peak_alone = peak_of(What::kAlone);
  table.add({fmt::format("{} x {}, {} of {} heads{}", size.tokens, size.head_size, size.key_heads, size.heads,
                         size.causal ? ", causal" : ""),
             fmt::format("{:.2f}", 1e3 * own), fmt::format("{:.2f}", 1 + with_log_sums / own),
             fmt::format("{:.2f}", 1 + alone / own), fmt::format("{:.1f}", 100 * sampled / own),
             with_matrix ? fmt::format("{:.2f}", 1 + full / own) : "", fmt::format("{:.1f}", peak),
             fmt::format("{:.1f}", peak_alone)});
}

void measure_step(const Size& size, bool smoke, MarkdownTable& table) {
  const Case test(size);
  constexpr double kNever = std::numeric_limits<double>::infinity();
  double own = kNever, stats = kNever;
  const int steps = smoke || size.tokens > 4096 ? 1 : 32;
  const double began = process_cpu_seconds();
  for (int run = 0; run < 1 || (!smoke && process_cpu_seconds() - began < 1); ++run) {
    keep_least(own, [&] {
      for (int step = 0; step < steps; ++step) test.attend();
    });
    keep_least(stats, [&] {
      for (int step = 0; step < steps; ++step) test.measure(Case::What::kAlone);
    });
  }
  table.add({fmt::format("{} x {}, {} of {} heads", size.tokens, size.head_size, size.key_heads, size.heads),
             fmt::format("{:.1f}", 1e6 * own / steps), fmt::format("{:.1f}", 1e6 * stats / steps),
             fmt::format("{:.2f}", 1 + stats / own)});
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  using namespace moetap::benchmarks;
  const bool smoke = smoke_requested(argc, argv);
  at::set_num_threads(1);
  std::printf("%s\n", describe_environment().c_str());
  MarkdownTable steps({"one query, keys x head size, key heads", "attention µs", "stats µs", "with stats x"});
  for (const int64_t tokens : smoke ? std::vector<int64_t>{32} : std::vector<int64_t>{1, 256, 1024, 4096, 16384}) {
    measure_step({tokens, 64, 8, 8, /*causal=*/false, /*last_alone=*/true}, smoke, steps);
    measure_step({tokens, 128, 32, 8, /*causal=*/false, /*last_alone=*/true}, smoke, steps);
  }
  std::printf("\n%s\n", steps.text().c_str());
  std::fflush(stdout);
  for (const int64_t tokens : smoke ? std::vector<int64_t>{32} : std::vector<int64_t>{128, 1024, 4096, 16384}) {
    MarkdownTable table({"tokens x head size, key heads", "attention ms", "with stats x", "without log-sum-exp x",
                         "sampled, 64 rows, added %", "full x", "peak MiB", "peak MiB without log-sum-exp"});
    for (const int64_t head_size : {64, 128}) {
      measure({tokens, head_size, 8, 8}, smoke, table);
      if (tokens > 4096) continue;
      measure({tokens, head_size, 8, 2}, smoke, table);
      measure({tokens, head_size, 32, 8}, smoke, table);
      measure({tokens, head_size, 8, 8, /*causal=*/false}, smoke, table);
    }
    std::printf("\n%s\n", table.text().c_str());
    std::fflush(stdout);
  }
  return 0;
}
