#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {
namespace {

constexpr double kEnough = 0.8;  // of a layer's importance; the expert that exceeds it is the last one

/// The few experts that hold most of a layer's importance.
class TopExperts : public UsageStudy {
 public:
  using UsageStudy::UsageStudy;

  Result finalize() const override {
    Table table("top_experts");
    auto& layers = table.integers("layer");
    auto& ranks = table.integers("rank");
    auto& experts = table.integers("expert_id");
    auto& importance = table.reals("importance");
    auto& cumulative = table.reals("cumulative");
    const UsageShares shares = this->shares();
    int64_t fewest = 0, fewest_layer = 0;
    double fewest_total = 0;
    for (size_t l = 0; l < shares.importance.size(); ++l) {
      double total = 0;
      int64_t rank = 0;
      for (const int64_t e : ranked(shares.importance[l])) {
        const double share = shares.importance[l][static_cast<size_t>(e)];
        total += share;
        layers.push_back(static_cast<int64_t>(l) + 1);
        ranks.push_back(++rank);
        experts.push_back(e);
        importance.push_back(share);
        cumulative.push_back(total);
        if (total > kEnough) break;
      }
      if (total > 0 && (fewest_layer == 0 || rank < fewest)) {
        fewest = rank;
        fewest_layer = static_cast<int64_t>(l) + 1;
        fewest_total = total;
      }
    }
    Result result;
    result.sentence = "no expert has importance";
    if (fewest_layer > 0) {
      result.sentence = count_text(fewest, "expert", "experts") + " of " +
                        std::to_string(shares.num_experts[static_cast<size_t>(fewest_layer - 1)]) + " have " +
                        percent_text(fewest_total) + " of the importance of layer " +
                        shares.names[static_cast<size_t>(fewest_layer - 1)] + ", the most concentrated layer";
    }
    result.tables.push_back(std::move(table));
    add_notices(result);
    return result;
  }
};

}  // namespace

std::unique_ptr<Study> make_top_experts(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<TopExperts>(shape, options);
}

}  // namespace moetap::analysis::studies
