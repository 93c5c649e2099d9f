#include "analysis/studies/layer_changes.h"

#include <cmath>
#include <memory>
#include <string>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {

double share_change(const std::vector<double>& from, const std::vector<double>& to) {
  if (from.size() != to.size()) return kUndefined;
  double change = 0;
  for (size_t e = 0; e < from.size(); ++e) change += std::abs(to[e] - from[e]);
  return change;
}

namespace {

/// How much the shares of experts change from a layer to the next.
class LayerChanges : public UsageStudy {
 public:
  using UsageStudy::UsageStudy;

  Result finalize() const override {
    Table table("layer_changes");
    auto& from = table.integers("from_layer");
    auto& to = table.integers("to_layer");
    auto& usage = table.reals("change_usage");
    auto& importance = table.reals("change_importance");
    const UsageShares shares = this->shares();
    for (size_t l = 0; l + 1 < shares.usage.size(); ++l) {
      from.push_back(static_cast<int64_t>(l) + 1);
      to.push_back(static_cast<int64_t>(l) + 2);
      usage.push_back(share_change(shares.usage[l], shares.usage[l + 1]));
      importance.push_back(share_change(shares.importance[l], shares.importance[l + 1]));
    }
    Result result;
    result.sentence = "there are no two layers to compare";
    if (!from.empty()) {
      const auto l = static_cast<size_t>(ranked(importance).front());
      if (std::isnan(importance[l])) {
        result.sentence = "no change is defined: layers that follow each other have different numbers of experts";
      } else {
        result.sentence = "importance changes most from layer " + shares.names[l] + " to layer " + shares.names[l + 1] +
                          ", by " + number_text(importance[l]) + " of at most 2 (usage: " + number_text(usage[l]) + ")";
      }
      result.notices.push_back(
          "expert e of a layer and expert e of the next are different networks unless the model shares experts across "
          "layers: then their shares can be compared, else only expert_transitions tells how layers are coupled");
    }
    result.tables.push_back(std::move(table));
    add_notices(result);
    return result;
  }
};

}  // namespace

std::unique_ptr<Study> make_layer_changes(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<LayerChanges>(shape, options);
}

}  // namespace moetap::analysis::studies
