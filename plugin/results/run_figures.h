#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plugin/records/counters.h"
#include "plugin/records/layer_table.h"
#include "plugin/results/run_summary.h"

namespace moetap::plugin {

// Note [Live figures]
// What a host's dashboards show while a run goes on: a few numbers a layer, over the run so far, for people who want to
// see whether routing is healthy without opening a run. Never more than 16 a layer, whatever the number of experts.

/// What there is to know of a figure of a layer.
struct LayerFigure {
  const char* name;  // in Prometheus moetap_router_NAME, in TensorBoard COMPONENT/LAYER/NAME
  const char* help;
};
inline constexpr LayerFigure kLayerFigures[] = {
    {"tokens", "Tokens that the router saw, without padding."},
    {"load_cv", "Standard deviation of the experts' selections over their mean; below 0.5 counts as balanced."},
    {"entropy_nats", "Mean entropy of the router's probabilities."},
    {"max_over_mean", "Selections of the most selected expert over the mean of all."},
    {"dead_experts", "Experts that no token selected."},
};
inline constexpr size_t kNumLayerFigures = std::size(kLayerFigures);
static_assert(kNumLayerFigures <= 16, "a layer has at most 16 figures");

struct RunFigures {
  struct Layer {
    std::string component, layer;
    double values[kNumLayerFigures];  // as kLayerFigures; NaN: there was nothing to measure
  };
  Counters counters;
  std::vector<Layer> layers;  // by component, in the order of the layers
};

/// The figures of a run so far. `layers`: of the routers.
RunFigures run_figures(const RunSummary& summary, const LayerTable& layers, Counters counters);

/// Prometheus' text format (version 0.0.4), as node exporter's textfile collector reads it. `labels`: name and value of
/// what stands at every number.
std::string prometheus_text(const RunFigures& figures,
                            const std::vector<std::pair<std::string_view, std::string>>& labels);

}  // namespace moetap::plugin
