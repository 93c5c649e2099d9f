#include <cstddef>
#include <memory>
#include <string>

#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {
namespace {

/// Share of selections and of gates of each expert and layer.
class ExpertUsage : public UsageStudy {
 public:
  using UsageStudy::UsageStudy;

  Result finalize() const override {
    Table table("expert_usage");
    auto& layers = table.integers("layer");
    auto& experts = table.integers("expert_id");
    auto& usage = table.reals("usage");
    auto& importance = table.reals("importance");
    const UsageShares shares = this->shares();
    double widest = -1;
    std::string sentence = "no expert was selected";
    for (size_t l = 0; l < shares.usage.size(); ++l) {
      for (size_t e = 0; e < shares.usage[l].size(); ++e) {
        const double used = shares.usage[l][e], important = shares.importance[l][e];
        layers.push_back(static_cast<int64_t>(l) + 1);
        experts.push_back(static_cast<int64_t>(e));
        usage.push_back(used);
        importance.push_back(important);
        if (used > 0 && important - used > widest) {
          widest = important - used;
          sentence = "expert " + std::to_string(e) + " of layer " + shares.names[l] + " has " + percent_text(used) +
                     " of the selections and " + percent_text(important) +
                     " of the gates: no other's importance exceeds its usage by more";
        }
      }
    }
    Result result;
    result.sentence = sentence;
    result.tables.push_back(std::move(table));
    add_notices(result);
    return result;
  }
};

}  // namespace

std::unique_ptr<Study> make_expert_usage(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<ExpertUsage>(shape, options);
}

}  // namespace moetap::analysis::studies
