#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {
namespace {

/// The shares of each expert in all layers, one row an expert. The names of columns count layers from 0.
class ExpertEvolutionStats : public UsageStudy {
 public:
  using UsageStudy::UsageStudy;

  Result finalize() const override {
    Table table("expert_evolution_stats");
    auto& experts = table.integers("expert_id");
    auto& stabilities = table.reals("stability");
    const UsageShares shares = this->shares();
    stabilities = expert_stability(shares, is_notebook());
    for (int64_t e = 0; e < shares.most_experts(); ++e) experts.push_back(e);
    for (int64_t l = 0; l < shares.num_layers; ++l) {
      const std::string prefix = "layer_" + std::to_string(l);
      const auto padded = [&](std::vector<double> values) {
        values.resize(experts.size(), kUndefined);
        return values;
      };
      table.reals(prefix + "_importance") = padded(shares.importance[static_cast<size_t>(l)]);
      table.reals(prefix + "_usage") = padded(shares.usage[static_cast<size_t>(l)]);
    }
    Result result;
    result.sentence = sentence(shares);
    result.tables.push_back(std::move(table));
    add_notices(result);
    return result;
  }

 private:
  /// The expert whose importance has the widest range over the layers.
  static std::string sentence(const UsageShares& shares) {
    double widest = 0;
    std::string text = "no expert's importance differs between layers";
    for (int64_t e = 0; e < shares.most_experts(); ++e) {
      size_t lowest = shares.importance.size(), highest = lowest;
      const auto at = [&](size_t l) { return shares.importance[l][static_cast<size_t>(e)]; };
      for (size_t l = 0; l < shares.importance.size(); ++l) {
        if (e >= shares.num_experts[l]) continue;
        if (lowest == shares.importance.size() || at(l) < at(lowest)) lowest = l;
        if (highest == shares.importance.size() || at(l) > at(highest)) highest = l;
      }
      if (lowest == shares.importance.size() || !(at(highest) - at(lowest) > widest)) continue;
      widest = at(highest) - at(lowest);
      text = "expert " + std::to_string(e) + " has the widest range of importance, from " + percent_text(at(lowest)) +
             " in layer " + shares.names[lowest] + " to " + percent_text(at(highest)) + " in layer " +
             shares.names[highest];
    }
    return text;
  }
};

}  // namespace

std::unique_ptr<Study> make_expert_evolution_stats(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<ExpertEvolutionStats>(shape, options);
}

}  // namespace moetap::analysis::studies
