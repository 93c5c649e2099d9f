#include "analysis/routers/router_columns.h"

#include <ATen/ops/arange.h>

#include <algorithm>
#include <initializer_list>

namespace moetap::analysis {

const char* column_name(RouterColumn column) {
  switch (column) {
    case kLogitsColumn:
      return "logits";
    case kScoresColumn:
      return "scores";
    case kWeightsColumn:
      return "weights";
    case kIdsColumn:
      return "ids";
    case kProbabilitiesColumn:
      return "probabilities";
  }
  return "";
}

RouterColumns columns_of(const RouterCall& call) {
  RouterColumns columns = kIdsColumn;
  if (call.logits.defined()) columns |= kLogitsColumn;
  if (call.scores.defined()) columns |= kScoresColumn;
  if (call.weights.defined()) columns |= kWeightsColumn;
  return columns;
}

void leave_out(RouterCall& call, RouterColumns columns) {
  if (columns & kLogitsColumn) call.logits = at::Tensor();
  if (columns & kScoresColumn) call.scores = at::Tensor();
  if (columns & kWeightsColumn) call.weights = at::Tensor();
}

void leave_out(RouterSums& sums, RouterColumns columns, RouterColumns measured) {
  const RouterSumsLayout layout = sums.layout();
  auto* words = sums.words.mutable_data_ptr<int64_t>();
  const auto clear = [&](int64_t offset, int64_t count) {
    for (int64_t row = 0; row < sums.num_rows; ++row) std::fill_n(words + row * layout.row_words() + offset, count, 0);
  };
  const auto clear_sums = [&](std::initializer_list<RowScalarSum> which) {
    for (const RowScalarSum sum : which) clear(RouterSumsLayout::scalar_sum(sum), kScalarSumWords);
  };
  const auto clear_vectors = [&](std::initializer_list<RowVector> which) {
    for (const RowVector vector : which) clear(layout.vector(vector), sums.num_experts);
  };
  if (columns & kLogitsColumn) {
    clear_sums({kEntropyAll, kLseSquared, kProbability});
    clear_vectors({kProbabilityHigh, kProbabilityLow, kTopProbability});
  }
  if (columns & (measured & kScoresColumn ? kScoresColumn : kLogitsColumn)) clear_sums({kScoreEntropy});
  if (columns & kWeightsColumn) {
    clear_sums({kEntropyTopk, kMargin, kWeight});
    clear_vectors({kWeightHigh, kWeightLow});
  }
}

at::Tensor placeholder_weights(const RouterCall& call) {
  return at::arange(call.selected.size(1), 0, -1, call.weights.options()).expand_as(call.selected);
}

}  // namespace moetap::analysis
