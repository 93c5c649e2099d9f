#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {

std::vector<double> expert_stability(const UsageShares& shares, bool notebook) {
  std::vector<double> stability;
  for (size_t e = 0; e < static_cast<size_t>(shares.most_experts()); ++e) {
    std::vector<double> values;  // of the layers that have the expert
    for (const std::vector<double>& layer : shares.importance) {
      if (e < layer.size()) values.push_back(layer[e]);
    }
    double mean = 0, variance = 0;
    for (const double value : values) mean += value / static_cast<double>(values.size());
    for (const double value : values) variance += (value - mean) * (value - mean) / static_cast<double>(values.size());
    const double deviation = std::sqrt(variance);
    if (notebook) {
      stability.push_back(1 / (deviation + 1e-10));
    } else {
      stability.push_back(mean > 0 ? 1 / (1 + deviation / mean) : kUndefined);
    }
  }
  if (notebook && !stability.empty()) {
    const double most = *std::max_element(stability.begin(), stability.end());
    for (double& value : stability) value /= most;
  }
  return stability;
}

namespace {

/// Which experts keep their importance over the layers.
class ExpertStability : public UsageStudy {
 public:
  using UsageStudy::UsageStudy;

  Result finalize() const override {
    Table table("expert_stability");
    auto& experts = table.integers("expert_id");
    auto& values = table.reals("stability");
    const std::vector<double> stability = expert_stability(shares(), is_notebook());
    int64_t undefined = 0;
    for (const int64_t e : ranked(stability)) {
      experts.push_back(e);
      values.push_back(stability[static_cast<size_t>(e)]);
      undefined += std::isnan(values.back());
    }
    Result result;
    result.sentence = "no expert has importance";
    if (!values.empty() && !std::isnan(values.front())) {
      const size_t last = values.size() - static_cast<size_t>(undefined) - 1;
      result.sentence = "expert " + std::to_string(experts.front()) +
                        " keeps its importance best over the layers (stability " + number_text(values.front()) +
                        "), expert " + std::to_string(experts[last]) + " least (" + number_text(values[last]) + ")";
      if (undefined > 0) result.sentence += "; " + count_text(undefined, "expert", "experts") + " never had any";
    }
    result.tables.push_back(std::move(table));
    add_notices(result);
    return result;
  }
};

}  // namespace

std::unique_ptr<Study> make_expert_stability(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<ExpertStability>(shape, options);
}

}  // namespace moetap::analysis::studies
