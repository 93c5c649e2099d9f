#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// How often a layer's experts were used by two sets of tokens.
struct LayerUses {
  std::vector<int64_t> a, b;  // [E]
  int64_t tokens_a = 0, tokens_b = 0;
};

/// Table `usage_comparison`: layer, expert_id, a, b (uses / tokens), diff = a − b, specialization = |a − b| / (a + b),
/// 0 when both are 0, dominant = the side that uses it more: "a", "b", "" when equal. A side without tokens has empty
/// cells.
Table usage_comparison(const std::vector<LayerShape>& layers, const std::vector<LayerUses>& uses);

/// What the table says, with names for the two sides.
std::string usage_comparison_sentence(const Table& table, const std::string& name_a, const std::string& name_b);

/// `usage_comparison` of two runs, over all tokens of each. Order::kSamples.
std::unique_ptr<PairStudy> make_usage_comparison(const PairShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
