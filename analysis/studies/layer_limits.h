#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moetap::analysis::studies {

/// What `moetap check` compares with its limits, of one layer; unset where it is not known or not defined.
struct LayerLoad {
  std::string component, layer;
  std::optional<double> load_cv, entropy_ratio;
  std::optional<double> imbalance;  // max / mean over experts
  std::optional<int64_t> dead_experts;
  std::optional<double> overlap;  // of two runs
};

struct LayerLimits {
  std::optional<double> max_cv, min_entropy_ratio, max_imbalance, min_overlap;
  bool no_dead = false;
};

/// One line for each layer and limit that it fails, in the order of the layers. A value that a limit asks for and that
/// is not known fails too: a check that checks nothing must not pass.
std::vector<std::string> failed_limits(const std::vector<LayerLoad>& layers, const LayerLimits& limits);

}  // namespace moetap::analysis::studies
