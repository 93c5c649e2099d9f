#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/layer_changes.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {
namespace {

constexpr size_t kBestOfLayer = 3;
constexpr size_t kMostStable = 5;

/// What the notebook's report holds: each layer's most important experts, the most stable ones, and the step between
/// layers with the largest change of importance (the first one on ties). Its fixed conclusion is left out.
class EvolutionReport : public UsageStudy {
 public:
  using UsageStudy::UsageStudy;

  Result finalize() const override {
    const UsageShares shares = this->shares();
    Result result;
    result.tables.push_back(best_of_layers(shares));
    result.tables.push_back(most_stable(shares));
    result.tables.push_back(largest_step(shares, result.sentence));
    add_notices(result);
    return result;
  }

 private:
  static Table best_of_layers(const UsageShares& shares) {
    Table table("evolution_report");
    auto& layers = table.integers("layer");
    auto& ranks = table.integers("rank");
    auto& experts = table.integers("expert_id");
    auto& importance = table.reals("importance");
    auto& sums = table.reals("top3_sum");
    for (size_t l = 0; l < shares.importance.size(); ++l) {
      std::vector<int64_t> best = ranked(shares.importance[l]);
      best.resize(std::min(best.size(), kBestOfLayer));
      double sum = 0;
      for (const int64_t e : best) sum += shares.importance[l][static_cast<size_t>(e)];
      for (size_t rank = 0; rank < best.size(); ++rank) {
        layers.push_back(static_cast<int64_t>(l) + 1);
        ranks.push_back(static_cast<int64_t>(rank) + 1);
        experts.push_back(best[rank]);
        importance.push_back(shares.importance[l][static_cast<size_t>(best[rank])]);
        sums.push_back(sum);
      }
    }
    return table;
  }

  Table most_stable(const UsageShares& shares) const {
    Table table("evolution_report_stable");
    auto& ranks = table.integers("rank");
    auto& experts = table.integers("expert_id");
    auto& values = table.reals("stability");
    const std::vector<double> stability = expert_stability(shares, is_notebook());
    for (const int64_t e : ranked(stability)) {
      if (ranks.size() == kMostStable || std::isnan(stability[static_cast<size_t>(e)])) break;
      ranks.push_back(static_cast<int64_t>(ranks.size()) + 1);
      experts.push_back(e);
      values.push_back(stability[static_cast<size_t>(e)]);
    }
    return table;
  }

  static Table largest_step(const UsageShares& shares, std::string& sentence) {
    Table table("evolution_report_change");
    auto& from = table.integers("from_layer");
    auto& to = table.integers("to_layer");
    auto& change = table.reals("change_importance");
    std::vector<double> changes;
    for (size_t l = 0; l + 1 < shares.importance.size(); ++l) {
      changes.push_back(share_change(shares.importance[l], shares.importance[l + 1]));
    }
    sentence = "one layer: there is no step between layers";
    if (changes.empty()) return table;
    const auto l = static_cast<size_t>(ranked(changes).front());
    if (std::isnan(changes[l])) {
      sentence = "no step between layers is defined: layers that follow each other have different numbers of experts";
      return table;
    }
    from.push_back(static_cast<int64_t>(l) + 1);
    to.push_back(static_cast<int64_t>(l) + 2);
    change.push_back(changes[l]);
    sentence = "the largest of " + count_text(static_cast<int64_t>(changes.size()), "step", "steps") +
               " between layers is from layer " + shares.names[l] + " to layer " + shares.names[l + 1] +
               ": importance moves by " + number_text(changes[l]) + " of at most 2";
    return table;
  }
};

}  // namespace

std::unique_ptr<Study> make_evolution_report(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<EvolutionReport>(shape, options);
}

}  // namespace moetap::analysis::studies
