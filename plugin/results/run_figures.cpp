#include "plugin/results/run_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "analysis/routers/router_metrics.h"

namespace moetap::plugin {
namespace {

// Backslash, quote and newline are escaped in a label's value.
std::string escaped(std::string_view value) {
  std::string text;
  for (const char c : value) {
    if (c == '\n') {
      text += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') text += '\\';
    text += c;
  }
  return text;
}

std::string number_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

}  // namespace

RunFigures run_figures(const RunSummary& summary, const LayerTable& layers, Counters counters) {
  constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();
  RunFigures figures;
  figures.counters = std::move(counters);
  for (const auto& [component, places] : layers.by_component()) {
    for (const size_t place : places) {
      const RunLayer& layer = layers.layers()[place];
      const analysis::RouterSums sums = summary.sums_without_pairs(place);
      RunFigures::Layer figure{component, layer.layer, {}};
      if (!sums.defined()) {
        figure.values[0] = 0;
        std::fill(figure.values + 1, figure.values + kNumLayerFigures, kNothing);
      } else {
        const analysis::RouterMetrics metrics = analysis::finalize(sums);
        const double values[] = {static_cast<double>(metrics.tokens), metrics.load_cv,
                                 metrics.entropy_all.value_or(kNothing), metrics.max_violation.value_or(kNothing) + 1,
                                 static_cast<double>(metrics.dead_experts)};
        static_assert(std::size(values) == kNumLayerFigures);
        std::copy(std::begin(values), std::end(values), figure.values);
      }
      figures.layers.push_back(std::move(figure));
    }
  }
  return figures;
}

std::string prometheus_text(const RunFigures& figures,
                            const std::vector<std::pair<std::string_view, std::string>>& labels) {
  std::string common;
  for (const auto& [name, value] : labels) {
    common += fmt::format("{}{}=\"{}\"", common.empty() ? "" : ",", name, escaped(value));
  }
  std::string text;
  for (const CounterInfo& count : kCounters) {
    const std::string name = fmt::format("moetap_{}_total", count.key.name);
    text += fmt::format("# HELP {} Counter \"{}\" of the run, in {}.\n# TYPE {} counter\n{}{{{}}} {}\n", name,
                        count.key.name, count.key.unit, name, name, common, figures.counters.*count.member);
  }
  for (size_t i = 0; i < kNumLayerFigures; ++i) {
    const std::string name = fmt::format("moetap_router_{}", kLayerFigures[i].name);
    text += fmt::format("# HELP {} {}\n# TYPE {} gauge\n", name, kLayerFigures[i].help, name);
    for (const RunFigures::Layer& layer : figures.layers) {
      text += fmt::format("{}{{{}{}component=\"{}\",layer=\"{}\"}} {}\n", name, common, common.empty() ? "" : ",",
                          escaped(layer.component), escaped(layer.layer), number_text(layer.values[i]));
    }
  }
  return text;
}

}  // namespace moetap::plugin
