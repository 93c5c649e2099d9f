#include "analysis/studies/usage_study.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include "analysis/studies/expert_ranking.h"

namespace moetap::analysis::studies {
namespace {

std::vector<int64_t> experts_of(const ComponentShape& shape) {
  std::vector<int64_t> experts;
  for (const LayerShape& layer : shape.layers) experts.push_back(layer.num_experts);
  return experts;
}

int64_t largest(const std::vector<int64_t>& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

}  // namespace

int64_t UsageShares::most_experts() const {
  return largest(num_experts);
}

UsageStudy::UsageStudy(const ComponentShape& shape, const StudyOptions& options)
    : names_(layer_names(shape)),
      num_experts_(experts_of(shape)),
      is_notebook_(options.definitions == Definitions::kNotebook),
      sums_(static_cast<int64_t>(shape.layers.size()), largest(num_experts_)) {}

void UsageStudy::observe(const TokenBatch& batch) {
  if (batch.usage != nullptr) {
    sums_.merge(batch.usage->of(batch, is_notebook_));
  } else {
    sums_.add(batch, is_notebook_);
  }
}

void UsageStudy::merge(const Study& other) {
  sums_.merge(dynamic_cast<const UsageStudy&>(other).sums_);
}

UsageShares UsageStudy::shares() const {
  UsageShares shares;
  shares.num_layers = static_cast<int64_t>(num_experts_.size());
  shares.names = names_;
  shares.num_experts = num_experts_;
  for (int64_t l = 0; l < shares.num_layers; ++l) {
    const int64_t experts = num_experts_[static_cast<size_t>(l)];
    std::vector<int64_t> counts;
    std::vector<double> selected, gates;
    for (int64_t e = 0; e < experts; ++e) {
      counts.push_back(sums_.counts[static_cast<size_t>(l * sums_.num_experts + e)]);
      selected.push_back(static_cast<double>(counts.back()));
      gates.push_back(sums_.gates.value(l, e));
    }
    shares.counts.push_back(std::move(counts));
    shares.usage.push_back(normalized(selected));
    shares.importance.push_back(normalized(gates));
  }
  return shares;
}

void UsageStudy::add_notices(Result& result) const {
  if (sums_.gates.out_of_range() > 0) {
    result.notices.push_back(std::to_string(sums_.gates.out_of_range()) +
                             " gates are infinite, NaN or beyond 6.7e7 and were left out");
  }
  const bool differ =
      std::adjacent_find(num_experts_.begin(), num_experts_.end(), std::not_equal_to<>()) != num_experts_.end();
  if (differ) result.notices.push_back("the layers have different numbers of experts");
}

}  // namespace moetap::analysis::studies
