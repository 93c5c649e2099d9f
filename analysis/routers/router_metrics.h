#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/routers/router_sums.h"

namespace moetap::analysis {

/// The metrics of one router over the tokens of its sums. E = num_experts, c = selected_count. Every number is finite;
/// empty: there was nothing to measure, the model does not have the tensor it needs, or a value was infinite or NaN.
struct RouterMetrics {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  int64_t tokens = 0;
  int64_t dropped_tokens = 0;      // tokens without a selection of nonzero weight (capacity, a skip class)
  int64_t invalid_ids = 0;         // slots that held the id of no expert; left out of everything
  int64_t out_of_range_terms = 0;  // values that were infinite, NaN or too large; what needs them is empty

  std::vector<int64_t> selected_count;             // [E] selections with nonzero weight, all K slots
  std::vector<int64_t> zero_weight_count;          // [E] selections with weight 0
  std::vector<int64_t> top1_count;                 // [E] tokens by their first slot
  std::optional<std::vector<double>> mean_prob;    // [E] mean of p over the tokens (Switch Transformer, P)
  std::vector<std::optional<double>> mean_weight;  // [E] mean gate weight over the selections of e; empty: none
  std::optional<std::vector<double>> usage;        // [E] c / T, sums to K (EasySteer)
  std::optional<double> entropy_all;               // nats, mean of H(p) (LibMoE)
  std::optional<double> entropy_topk;              // nats, mean of H(w) (LibMoE)
  std::optional<double> entropy_all_bits;          // bits
  std::optional<double> entropy_ratio;             // entropy_all / ln E; empty for E = 1
  std::optional<double> margin;                    // mean of w[0] - w[1]; K > 1 (LibMoE)
  std::optional<double> router_z_loss;             // mean of logsumexp(g)^2 (ST-MoE)
  std::optional<double> balance_loss;   // E * sum f P over all tokens, f from the first slot (Switch Transformer)
  std::optional<double> score_entropy;  // nats, entropy of the scores normalised to sum 1; sigmoid routers
  double load_cv = 0;                   // std(c, ddof = 1) / mean(c); 0 for E = 1 or c = 0 (EasySteer)
  std::optional<double> max_violation;  // max(c) / mean(c) - 1 (DeepSeek-V3)
  std::optional<double> gini;           // of c, 0 even to 1 - 1/E one expert
  std::optional<double> jain;           // (sum c)^2 / (E sum c^2)
  std::optional<std::vector<double>> load_ratio;  // [E] c / mean(c); 0 is a dead expert
  int64_t active_experts = 0;                     // c > 0
  int64_t dead_experts = 0;                       // c = 0
  int64_t underused_experts = 0;                  // c < mean(c) / 2
  std::vector<int64_t>
      coactivation;  // [E * E] row-major, tokens that selected both; diagonal = c; empty: not in the sums
  std::optional<double> repeat_rate;  // share of neighbouring tokens of a sample with the same first slot (Mixtral)
};

/// Turns sums into metrics, over all rows together. Host sums only, normalized or not. Default-constructed sums give
/// zeros and empty values.
RouterMetrics finalize(const RouterSums& sums);

/// What LibMoE's evaluation logs of one router; formulas over [B, N] with B = the rows that have tokens, N = the tokens
/// of each row (rows may differ in length). Names are LibMoE's.
struct LibMoeMetrics {
  std::optional<double> entropy_weight_topk;              // nats, mean over all tokens
  std::optional<double> entropy_weight_all;               // nats, mean over all tokens
  std::optional<std::vector<int64_t>> dist_experts_top1;  // [E] counts of argmax p
  std::vector<int64_t> dist_experts_top2;                 // [E] counts of all K slots, zero weights too
  std::optional<double> balance_loss;                     // E^2 * mean over (b, e) of f * P; f from the first slot
  std::optional<double> router_z_loss;                    // mean of logsumexp(g)^2 over all tokens
  int64_t out_of_range_terms = 0;                         // values that made a key of the above empty
};

LibMoeMetrics finalize_libmoe(const RouterSums& sums);

}  // namespace moetap::analysis
