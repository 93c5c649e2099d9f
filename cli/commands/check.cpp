#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <thread>
#include <variant>

#include "analysis/studies/expert_counts.h"
#include "analysis/studies/layer_limits.h"
#include "analysis/studies/load_metrics.h"
#include "cli/commands/commands.h"
#include "cli/studies/analysis_job.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "plugin/run/run_reader.h"

namespace moetap::cli {
namespace {

using analysis::studies::LayerLimits;
using analysis::studies::LayerLoad;

struct Options {
  std::vector<std::string> runs;
  LayerLimits limits;
};

bool limits_loads(const LayerLimits& limits) {
  return limits.max_cv || limits.min_entropy_ratio || limits.max_imbalance || limits.no_dead;
}

/// What a layer's sums of the whole run say. Without tokens nothing is known.
LayerLoad load_of(const plugin::ReadLayer& layer) {
  LayerLoad load;
  load.component = layer.component;
  load.layer = layer.layer;
  if (layer.tokens == 0 || layer.selected.empty()) return load;
  const analysis::studies::LoadMetrics metrics = analysis::studies::load_metrics(layer.selected);
  load.load_cv = metrics.load_cv;
  load.dead_experts = metrics.dead_experts;
  const double imbalance = analysis::studies::max_over_mean(layer.selected);
  if (std::isfinite(imbalance)) load.imbalance = imbalance;
  if (layer.num_experts == 1) {
    load.entropy_ratio = 1;  // one expert: there is nothing to spread, and no limit that it could fail
  } else if (layer.entropy_tokens > 0 && layer.num_experts > 1) {
    load.entropy_ratio = layer.entropy / std::log(static_cast<double>(layer.num_experts));
  }
  return load;
}

std::vector<LayerLoad> loads_of(const std::string& run) {
  std::vector<LayerLoad> loads;
  const plugin::RunReader reader(run);
  for (const auto& [component, layers] : reader.components()) {
    for (const plugin::ReadLayer& layer : layers) loads.push_back(load_of(layer));
  }
  if (loads.empty()) throw CommandError(fmt::format("{}: the run has no router that reported", run));
  return loads;
}

template <typename Value>
const std::vector<Value>& cells(const analysis::studies::Table& table, const char* column) {
  return std::get<std::vector<Value>>(table.find(column)->cells);
}

/// What the study `alignment` says of two runs.
struct Comparison {
  std::vector<LayerLoad> loads;
  std::vector<std::string> not_compared;  // a line for each layer that one run alone has
  std::vector<std::string> notices;       // unmatched rows among them
};

/// Layers that are in no row of the study fail by name: a check that checks nothing must not pass.
std::vector<std::string> layers_left_out(StudyInputs& inputs, const std::vector<LayerLoad>& loads) {
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> runs_with;
  for (size_t run = 0; run < inputs.num_inputs(); ++run) {
    for (const auto& layer : inputs.layers_of(run)) runs_with[layer].push_back(inputs.path(run));
  }
  for (const LayerLoad& load : loads) runs_with.erase({load.component, load.layer});
  std::vector<std::string> lines;
  for (const auto& [layer, runs] : runs_with) {
    lines.push_back(fmt::format("{} layer {}: is not compared: {}", layer.first, layer.second,
                                runs.size() == 1 ? "only " + runs.front() + " has it" : "it is not in both dumps"));
  }
  return lines;
}

Comparison compare(const std::vector<std::string>& runs, const std::function<void()>& check) {
  AnalyzeOptions options;
  options.only = {"alignment"};
  StudyInputs inputs(runs, {options, std::filesystem::temp_directory_path().string(), check});
  AnalysisPlan plan = plan_analysis(inputs, options);
  require_studies(plan);
  StudySums sums(std::move(plan));
  PassOptions passes;
  passes.num_threads = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));
  passes.check = check;
  observe_inputs(inputs, sums, passes);
  const Analysis analysis = sums.finalize();
  Comparison comparison;
  comparison.notices = analysis.notices;
  for (const StudyResult& of : analysis.results) {
    if (of.study != "alignment") continue;
    comparison.notices.insert(comparison.notices.end(), of.result.notices.begin(), of.result.notices.end());
    const analysis::studies::Table& table = of.result.tables.front();
    for (size_t row = 0; row < table.num_rows(); ++row) {
      LayerLoad load;
      load.component = cells<std::string>(table, "component")[row];
      load.layer = cells<std::string>(table, "layer")[row];
      const double overlap = cells<double>(table, "overlap")[row];
      if (std::isfinite(overlap)) load.overlap = overlap;
      const int64_t unmatched_a = cells<int64_t>(table, "unmatched_a")[row];
      const int64_t unmatched_b = cells<int64_t>(table, "unmatched_b")[row];
      if (unmatched_a + unmatched_b > 0) {
        comparison.notices.push_back(
            fmt::format("{} layer {}: {} rows compared; without a partner {} of {} and {} of {}", load.component,
                        load.layer, cells<int64_t>(table, "tokens")[row], unmatched_a, runs[0], unmatched_b, runs[1]));
      }
      comparison.loads.push_back(std::move(load));
    }
  }
  comparison.not_compared = layers_left_out(inputs, comparison.loads);
  return comparison;
}

void check_usage(const Options& options) {
  if (!limits_loads(options.limits) && !options.limits.min_overlap) {
    throw CommandError(
        "no limit is given: --max-cv, --min-entropy-ratio, --max-imbalance, --no-dead, or --min-overlap with two runs",
        kExitUsage);
  }
  if (options.limits.min_overlap && options.runs.size() != 2) {
    throw CommandError("--min-overlap compares two runs: moetap check RUN_A RUN_B --min-overlap X", kExitUsage);
  }
}

int run_check(const Options& options) {
  check_usage(options);
  const InterruptGuard interrupt;
  const auto check = [&] {
    if (interrupt.requested()) throw CommandError("interrupted", kExitInterrupted);
  };
  LayerLimits of_one = options.limits, of_two;
  of_two.min_overlap = std::exchange(of_one.min_overlap, std::nullopt);
  size_t num_layers = 0, num_failed = 0;
  const auto judge = [&](const std::string& run, const std::vector<LayerLoad>& loads, const LayerLimits& limits) {
    num_layers += loads.size();
    for (const std::string& line : analysis::studies::failed_limits(loads, limits)) {
      fmt::print("{}: {}\n", run, line);
      ++num_failed;
    }
  };
  if (limits_loads(of_one)) {
    for (const std::string& run : options.runs) judge(run, loads_of(run), of_one);
  }
  if (of_two.min_overlap) {
    const Comparison comparison = compare(options.runs, check);
    if (comparison.loads.empty()) throw CommandError("the runs have no layer in common");
    const std::string both = fmt::format("{} and {}", options.runs[0], options.runs[1]);
    judge(both, comparison.loads, of_two);
    for (const std::string& line : comparison.not_compared) fmt::print("{}: {}\n", both, line);
    num_failed += comparison.not_compared.size();
    std::fflush(stdout);
    for (const std::string& line : comparison.notices) fmt::print(stderr, "moetap: check: {}\n", line);
  }
  if (num_failed > 0) return kExitFailed;
  fmt::print("{} {} within the limits\n", num_layers, num_layers == 1 ? "layer is" : "layers are");
  return 0;
}

}  // namespace

Command add_check(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand("check", "Limits on a finished run's routing, for CI: exit 0 or 1");
  app->add_option("RUN_DIR", options->runs, "A finished run, or two")->required()->expected(1, 2);
  LayerLimits& limits = options->limits;
  app->add_option("--max-cv", limits.max_cv, "load_cv of a layer is at most X")->type_name("X");
  app->add_option("--min-entropy-ratio", limits.min_entropy_ratio,
                  "Mean entropy of the router's probabilities over ln E is at least X")
      ->type_name("X");
  app->add_option("--max-imbalance", limits.max_imbalance, "max / mean of an expert's selections is at most X")
      ->type_name("X");
  app->add_flag("--no-dead", limits.no_dead, "Each expert was selected");
  app->add_option("--min-overlap", limits.min_overlap,
                  "Two runs with dumps: mean overlap of the tokens' expert sets is at least X")
      ->type_name("X");
  app->footer(
      "Prints a line for each layer and limit that fails. A value that a limit asks for and that the run does not have "
      "fails, too. Of two runs also a layer that one alone has.");
  return {app, [options] { return run_check(*options); }};
}

}  // namespace moetap::cli
