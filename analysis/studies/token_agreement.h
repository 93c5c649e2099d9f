#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "analysis/studies/token_batch.h"

namespace moetap::analysis::studies {

/// KL(p || q) in nats of the softmaxes of two rows of logits; infinite where q rules out what p does not.
double kl_of_softmaxes(std::span<const double> p_logits, std::span<const double> q_logits);

/// Compares what one token did in two runs. Keeps its memory between tokens.
class TokenAgreement {
 public:
  explicit TokenAgreement(int64_t num_experts)
      : marked_(static_cast<size_t>(num_experts)), difference_(static_cast<size_t>(num_experts)) {}

  /// |a ∩ b| of sets.
  int64_t common(std::span<const int32_t> a, std::span<const int32_t> b);
  /// The sum over experts of |w_a − w_b|; slots of one expert are added.
  double weight_l1(const LayerTokens& a, const LayerTokens& b, int64_t t);

 private:
  std::vector<int64_t> marked_;     // [E] the last token that had the expert
  std::vector<double> difference_;  // [E] 0 between calls
  int64_t tokens_ = 0;
};

/// The K-th best score of a token and the next.
struct BestScores {
  bool takes_best = false;  // no expert that the token did not choose has a better score than one that it chose
  double margin = 0;        // K-th best − (K + 1)-th best; NaN if there is no such score
};

/// `scores` [E], `ids` [K] as chosen, whatever their weights; −1 is none.
class ScoreRanks {
 public:
  BestScores of(std::span<const double> scores, std::span<const int32_t> ids);

 private:
  std::vector<double> sorted_;
  std::vector<uint8_t> chosen_;
};

}  // namespace moetap::analysis::studies
