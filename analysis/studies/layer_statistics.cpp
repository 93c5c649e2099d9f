#include <cmath>
#include <cstddef>
#include <memory>
#include <string>

#include "analysis/studies/expert_ranking.h"
#include "analysis/studies/sentence_numbers.h"
#include "analysis/studies/usage_study.h"

namespace moetap::analysis::studies {
namespace {

/// Bits, of counts. The notebook adds 1e-10 to the total and within the logarithm.
double entropy_of(const std::vector<int64_t>& counts, double total, bool notebook) {
  double entropy = 0;
  for (const int64_t count : counts) {
    if (notebook) {
      const double p = static_cast<double>(count) / (total + 1e-10);
      entropy -= p * std::log2(p + 1e-10);
    } else if (count > 0) {
      const double p = static_cast<double>(count) / total;
      entropy -= p * std::log2(p);
    }
  }
  return entropy;
}

/// How evenly each layer spreads its tokens. A layer without any selection has entropy 0 and no ratio of its first
/// expert.
class LayerStatistics : public UsageStudy {
 public:
  using UsageStudy::UsageStudy;

  Result finalize() const override {
    Table table("layer_statistics");
    auto& layers = table.integers("layer");
    auto& active = table.integers("active_experts");
    auto& entropies = table.reals("entropy");
    auto& ratios = table.reals("entropy_ratio");
    auto& first = table.integers("max_expert");
    auto& first_ratio = table.reals("max_expert_ratio");
    const UsageShares shares = this->shares();
    for (size_t l = 0; l < shares.counts.size(); ++l) {
      const std::vector<int64_t>& counts = shares.counts[l];
      double total = 0;
      int64_t used = 0;
      for (const int64_t count : counts) {
        total += static_cast<double>(count);
        used += count > 0;
      }
      const double entropy = entropy_of(counts, total, is_notebook());
      double ratio = entropy / std::log2(static_cast<double>(counts.size()));
      if (counts.size() <= 1) ratio = is_notebook() ? kUndefined : 0;
      const int64_t top = counts.empty() ? kNoInteger : ranked(shares.usage[l]).front();
      layers.push_back(static_cast<int64_t>(l) + 1);
      active.push_back(used);
      entropies.push_back(entropy);
      ratios.push_back(ratio);
      first.push_back(top);
      first_ratio.push_back(total > 0 ? static_cast<double>(counts[static_cast<size_t>(top)]) / total : kUndefined);
    }
    Result result;
    result.sentence = sentence(shares, layers, first, first_ratio, ratios);
    result.tables.push_back(std::move(table));
    add_notices(result);
    return result;
  }

 private:
  static std::string sentence(const UsageShares& shares, const std::vector<int64_t>& layers,
                              const std::vector<int64_t>& first, const std::vector<double>& first_ratio,
                              const std::vector<double>& ratios) {
    if (layers.empty() || std::isnan(first_ratio[static_cast<size_t>(ranked(first_ratio).front())])) {
      return "no expert was selected";
    }
    const auto l = static_cast<size_t>(ranked(first_ratio).front());
    return "layer " + shares.names[l] + " sends " + percent_text(first_ratio[l]) + " of its selections to expert " +
           std::to_string(first[l]) + ", the largest share of an expert (uniform: " +
           percent_text(1 / static_cast<double>(shares.num_experts[l])) + "); its entropy is " +
           percent_text(ratios[l]) + " of the largest possible";
  }
};

}  // namespace

std::unique_ptr<Study> make_layer_statistics(const ComponentShape& shape, const StudyOptions& options) {
  return std::make_unique<LayerStatistics>(shape, options);
}

}  // namespace moetap::analysis::studies
