#include "analysis/studies/layer_limits.h"

#include <cstdio>

#include "analysis/studies/sentence_numbers.h"

namespace moetap::analysis::studies {
namespace {

/// Enough digits to tell a value from a limit that it just fails.
std::string exact_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

}  // namespace

std::vector<std::string> failed_limits(const std::vector<LayerLoad>& layers, const LayerLimits& limits) {
  std::vector<std::string> failed;
  for (const LayerLoad& layer : layers) {
    const std::string name = layer.component + " layer " + layer.layer + ": ";
    const auto check = [&](const char* what, const std::optional<double>& value, const std::optional<double>& limit,
                           bool is_largest) {
      if (!limit) return;
      if (!value) {
        failed.push_back(name + what + " is not known");
      } else if (!(is_largest ? *value <= *limit : *value >= *limit)) {
        failed.push_back(name + what + " is " + exact_text(*value) + (is_largest ? ", above " : ", below ") +
                         exact_text(*limit));
      }
    };
    check("load_cv", layer.load_cv, limits.max_cv, true);
    check("entropy_ratio", layer.entropy_ratio, limits.min_entropy_ratio, false);
    check("imbalance (max / mean)", layer.imbalance, limits.max_imbalance, true);
    check("overlap", layer.overlap, limits.min_overlap, false);
    if (limits.no_dead && !layer.dead_experts) {
      failed.push_back(name + "dead_experts is not known");
    } else if (limits.no_dead && *layer.dead_experts > 0) {
      failed.push_back(name + count_text(*layer.dead_experts, "expert was", "experts were") + " never used");
    }
  }
  return failed;
}

}  // namespace moetap::analysis::studies
