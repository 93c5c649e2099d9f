// Time of hooks::discover and of hooks::instrument (which discovers first) against the number of layers, for experts in
// a loop and for experts that are modules of their own (large graphs).
//
//   discovery_benchmark           # prints the tables of RESULTS.md
//   discovery_benchmark --smoke   # a second, few layers
//
// It does not use google-benchmark, whose Complexity() prints a different table. The figure is the CPU time of the one
// thread that works, the fastest of several runs, since other load can only add to it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/moe_model.h"
#include "benchmarks/process_usage.h"
#include "benchmarks/report.h"
#include "hooks/graph/method_graph.h"
#include "hooks/instrument.h"

namespace moetap::benchmarks {
namespace {

constexpr int64_t kLayersOfGoal = 48;
constexpr double kGoalSeconds = 1;

// Widths do not affect discovery, which reads the graph alone.
MoeModelSize model_size(int64_t num_layers, ExpertLayout experts) {
  return {.vocabulary = 64,
          .hidden = 32,
          .num_layers = num_layers,
          .num_heads = 4,
          .num_key_value_heads = 2,
          .num_experts = 16,
          .intermediate = 48,
          .experts = experts};
}

template <typename Work>
double fastest_seconds(int runs, const Work& work) {
  double fastest = std::numeric_limits<double>::infinity();
  for (int run = 0; run < runs; ++run) {
    const double began = process_cpu_seconds();
    work();
    fastest = std::min(fastest, process_cpu_seconds() - began);
  }
  return fastest;
}

/// Exponent p of seconds ~ layers^p, from a least-squares fit of the logarithms; 1 is linear.
double growth_exponent(const std::vector<std::pair<double, double>>& layers_and_seconds) {
  double mean_x = 0, mean_y = 0, covariance = 0, variance = 0;
  const auto number = static_cast<double>(layers_and_seconds.size());
  for (const auto& [layers, seconds] : layers_and_seconds) {
    mean_x += std::log(layers) / number;
    mean_y += std::log(seconds) / number;
  }
  for (const auto& [layers, seconds] : layers_and_seconds) {
    const double x = std::log(layers) - mean_x;
    covariance += x * (std::log(seconds) - mean_y);
    variance += x * x;
  }
  return covariance / variance;
}

void measure(const char* title, ExpertLayout experts, const std::vector<int64_t>& numbers_of_layers, int runs) {
  MarkdownTable table({"layers", "nodes", "inline s", "discover s", "instrument s", "instrument, ms a layer"});
  std::vector<std::pair<double, double>> inlining, discovering, instrumenting;
  std::string verdict;
  for (const int64_t num_layers : numbers_of_layers) {
    const torch::jit::Module model = make_moe_model(model_size(num_layers, experts));
    size_t nodes = 0, hooks_found = 0;
    const double inline_s = fastest_seconds(runs, [&] { nodes = hooks::MethodGraph(model, "forward").nodes().size(); });
    const double discover_s = fastest_seconds(runs, [&] { hooks_found = hooks::discover(model).hooks.size(); });
    TORCH_CHECK(hooks_found == static_cast<size_t>(num_layers), "expected ", num_layers, " routers, found ",
                hooks_found);
    const double instrument_s = fastest_seconds(
        runs, [&] { hooks::instrument(model, [](const hooks::Discovery&) { return std::string("{}"); }); });
    table.add({std::to_string(num_layers), std::to_string(nodes), fmt::format("{:.3f}", inline_s),
               fmt::format("{:.3f}", discover_s), fmt::format("{:.3f}", instrument_s),
               fmt::format("{:.2f}", 1e3 * instrument_s / num_layers)});
    inlining.emplace_back(num_layers, inline_s);
    discovering.emplace_back(num_layers, discover_s);
    instrumenting.emplace_back(num_layers, instrument_s);
    if (num_layers == kLayersOfGoal) {
      verdict = fmt::format(" {} layers: {:.3f} s, the goal of under {} s is {}.", num_layers, instrument_s,
                            kGoalSeconds, instrument_s < kGoalSeconds ? "met" : "missed");
    }
  }
  std::printf("\n%s\n\n%s\n", title, table.text().c_str());
  std::printf("Time grows with layers to the power of %.2f (inline), %.2f (discover) and %.2f (instrument).%s\n",
              growth_exponent(inlining), growth_exponent(discovering), growth_exponent(instrumenting), verdict.c_str());
}

}  // namespace
}  // namespace moetap::benchmarks

int main(int argc, char** argv) {
  using namespace moetap::benchmarks;
  const bool smoke = smoke_requested(argc, argv);
  const std::vector<int64_t> numbers_of_layers =
      smoke ? std::vector<int64_t>{2, 4} : std::vector<int64_t>{8, 16, 32, 48, 64, 96};
  const int runs = smoke ? 1 : 5;
  std::printf("%s\n", describe_environment().c_str());
  measure("Experts in a loop:", ExpertLayout::kLoop, numbers_of_layers, runs);
  measure("16 experts a layer, a module each:", ExpertLayout::kSubmodules, numbers_of_layers, runs);
  return 0;
}
