#pragma once

#include <cstdint>

namespace moetap::analysis {

// Note [Layout of router sums]
// The sums of one router are one flat int64 tensor, so that a kernel adds into it with plain 64-bit integer adds, one
// copy moves it, and merging is adding:
//
//   row 0 | row 1 | ... | row R-1 | pairs
//
// A row holds, in this order:
//  - kNumRowCounters counters, a word each (RowCounter);
//  - kNumScalarSums scalar sums of four words: high limb, low limb, terms added, terms out of range (RowScalarSum);
//  - kNumRowVectors vectors of E words (RowVector).
//
// There is one table of pairs a call, not one a row, since only the run's summary needs it; none for K = 1. The word
// pair_index(i, j), i < j, is the number of tokens that selected both with nonzero weight.
//
// A scalar sum is complete when its `terms added` equals the number of terms it should have (tokens of the row; for the
// weights, selections). Fewer means that a call did not have the tensor or that a term was out of range; then no mean
// is reported.

enum RowCounter : int64_t {
  kTokens,         // tokens of the row that are not masked
  kDroppedTokens,  // tokens without a selection of nonzero weight
  kInvalidIds,     // slots whose id is neither -1 nor an expert; they count in nothing else
  kRepeatPairs,    // neighbouring tokens of the row, both with a first slot; neighbours within one call
  kRepeatHits,     // of these, the pairs whose first slots hold the same expert
};
inline constexpr int64_t kNumRowCounters = kRepeatHits + 1;

enum RowScalarSum : int64_t {
  kEntropyAll,    // H(p)
  kEntropyTopk,   // H(w)
  kMargin,        // w[0] - w[1]; K > 1 only
  kLseSquared,    // logsumexp(g)^2
  kScoreEntropy,  // H(scores) of a router that scores with a sigmoid
  kProbability,   // the limbs stay 0: they are the vectors kProbabilityHigh, kProbabilityLow; the terms are tokens
  kWeight,        // the limbs stay 0: they are the vectors kWeightHigh, kWeightLow; the terms are selections
};
inline constexpr int64_t kNumScalarSums = kWeight + 1;

enum ScalarSumWord : int64_t { kHighLimb, kLowLimb, kTermsAdded, kTermsOutOfRange };
inline constexpr int64_t kScalarSumWords = kTermsOutOfRange + 1;

enum RowVector : int64_t {
  kSelected,         // selections with nonzero weight, all slots
  kZeroWeight,       // selections with weight 0
  kTopProbability,   // tokens whose largest p is this expert's (ties to the lower id)
  kFirstSlot,        // tokens whose first slot holds this expert, whatever its weight
  kProbabilityHigh,  // sum of p, high limbs
  kProbabilityLow,
  kWeightHigh,  // sum of the gate weights of nonzero selections, high limbs
  kWeightLow,
};
inline constexpr int64_t kNumRowVectors = kWeightLow + 1;

struct RouterSumsLayout {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t num_rows = 0;

  constexpr int64_t row_words() const {
    return kNumRowCounters + kNumScalarSums * kScalarSumWords + kNumRowVectors * num_experts;
  }
  constexpr int64_t pair_words() const { return top_k > 1 ? num_experts * (num_experts - 1) / 2 : 0; }
  constexpr int64_t words() const { return num_rows * row_words() + pair_words(); }
  constexpr int64_t pairs_begin() const { return num_rows * row_words(); }

  // Offsets from the start of a row.
  static constexpr int64_t counter(RowCounter which) { return which; }
  static constexpr int64_t scalar_sum(RowScalarSum which) { return kNumRowCounters + which * kScalarSumWords; }
  constexpr int64_t vector(RowVector which) const {
    return kNumRowCounters + kNumScalarSums * kScalarSumWords + which * num_experts;
  }

  // Offset from the start of the pairs; i < j.
  constexpr int64_t pair_index(int64_t i, int64_t j) const { return i * (2 * num_experts - i - 1) / 2 + (j - i - 1); }
};

}  // namespace moetap::analysis
