#include "analysis/studies/token_agreement.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace moetap::analysis::studies {
namespace {

double log_sum_exp(std::span<const double> logits) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double logit : logits) largest = std::max(largest, logit);
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

bool is_expert(int32_t id, size_t num_experts) {
  return id >= 0 && static_cast<size_t>(id) < num_experts;
}

}  // namespace

double kl_of_softmaxes(std::span<const double> p_logits, std::span<const double> q_logits) {
  const double p_total = log_sum_exp(p_logits), q_total = log_sum_exp(q_logits);
  double divergence = 0;
  for (size_t e = 0; e < p_logits.size(); ++e) {
    const double log_p = p_logits[e] - p_total, p = std::exp(log_p);
    if (p != 0) divergence += p * (log_p - (q_logits[e] - q_total));
  }
  return divergence;
}

int64_t TokenAgreement::common(std::span<const int32_t> a, std::span<const int32_t> b) {
  ++tokens_;
  for (const int32_t expert : a) marked_[static_cast<size_t>(expert)] = tokens_;
  int64_t common = 0;
  for (const int32_t expert : b) common += marked_[static_cast<size_t>(expert)] == tokens_;
  return common;
}

double TokenAgreement::weight_l1(const LayerTokens& a, const LayerTokens& b, int64_t t) {
  const std::span<const int32_t> ids_a = a.ids_of(t), ids_b = b.ids_of(t);
  const std::span<const double> weights_a = a.weights_of(t), weights_b = b.weights_of(t);
  const size_t num_experts = difference_.size();
  for (size_t k = 0; k < ids_a.size(); ++k) {
    if (is_expert(ids_a[k], num_experts)) difference_[static_cast<size_t>(ids_a[k])] += weights_a[k];
  }
  for (size_t k = 0; k < ids_b.size(); ++k) {
    if (is_expert(ids_b[k], num_experts)) difference_[static_cast<size_t>(ids_b[k])] -= weights_b[k];
  }
  double sum = 0;
  for (const std::span<const int32_t> ids : {ids_a, ids_b}) {
    for (const int32_t id : ids) {
      if (!is_expert(id, num_experts)) continue;
      sum += std::abs(difference_[static_cast<size_t>(id)]);
      difference_[static_cast<size_t>(id)] = 0;
    }
  }
  return sum;
}

BestScores ScoreRanks::of(std::span<const double> scores, std::span<const int32_t> ids) {
  BestScores best;
  const size_t num_experts = scores.size(), top_k = ids.size();
  chosen_.assign(num_experts, 0);
  double least_chosen = std::numeric_limits<double>::infinity();
  for (const int32_t id : ids) {
    if (!is_expert(id, num_experts)) continue;
    chosen_[static_cast<size_t>(id)] = 1;
    least_chosen = std::min(least_chosen, scores[static_cast<size_t>(id)]);
  }
  best.takes_best = true;
  for (size_t e = 0; e < num_experts; ++e) best.takes_best &= chosen_[e] != 0 || !(scores[e] > least_chosen);
  if (top_k == 0 || top_k >= num_experts) {
    best.margin = std::numeric_limits<double>::quiet_NaN();
    return best;
  }
  sorted_.assign(scores.begin(), scores.end());
  for (double& score : sorted_) score = score == score ? score : -std::numeric_limits<double>::infinity();
  const auto next = sorted_.begin() + static_cast<std::ptrdiff_t>(top_k);
  std::nth_element(sorted_.begin(), next, sorted_.end(), std::greater<>());
  best.margin = *std::min_element(sorted_.begin(), next) - *next;
  return best;
}

}  // namespace moetap::analysis::studies
