#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "analysis/routers/router_sums.h"

namespace moetap::analysis {

/// The metrics of one router over the tokens of its sums. E = num_experts, c = selected_count. Every number is finite;
/// empty: there was nothing to measure, the model does not have the tensor that is needed, or a value was infinite or
/// NaN. Each member but the first two has a row in `kRouterMetrics`.
struct RouterMetrics {
  int64_t num_experts = 0;
  int64_t top_k = 0;

  int64_t tokens = 0;
  int64_t dropped_tokens = 0;      // without a selection of nonzero weight (capacity, a skip class)
  int64_t invalid_ids = 0;         // slots that held the id of no expert; left out of everything
  int64_t out_of_range_terms = 0;  // infinite, NaN or too large; what needs them is empty

  std::optional<double> entropy_all;       // mean of H(p) (LibMoE)
  std::optional<double> entropy_topk;      // mean of H(w) (LibMoE)
  std::optional<double> entropy_all_bits;  // entropy_all / ln 2
  std::optional<double> entropy_ratio;     // entropy_all / ln E; empty for E = 1
  std::optional<double> score_entropy;     // mean entropy of the scores normalised to sum 1; sigmoid routers
  std::optional<double> margin;            // mean of w[0] - w[1]; K > 1 (LibMoE)
  std::optional<double> router_z_loss;     // mean of logsumexp(g)^2 (ST-MoE)
  std::optional<double> balance_loss;      // E * sum f P over all tokens, f from the first slot (Switch Transformer)
  double load_cv = 0;                      // std(c, ddof = 1) / mean(c); 0 for E = 1 or c = 0 (EasySteer)
  std::optional<double> max_violation;     // max(c) / mean(c) - 1 (DeepSeek-V3)
  std::optional<double> gini;              // of c: from 0 (even) to 1 - 1/E (one expert takes all)
  std::optional<double> jain;              // (sum c)^2 / (E sum c^2)
  int64_t active_experts = 0;              // c > 0
  int64_t dead_experts = 0;                // c = 0
  int64_t underused_experts = 0;           // c < mean(c) / 2
  std::optional<double> repeat_rate;  // share of neighbouring tokens of a sample with the same first slot (Mixtral)

  std::vector<int64_t> selected_count;             // [E] selections with nonzero weight, all K slots
  std::vector<int64_t> zero_weight_count;          // [E] selections with weight 0
  std::vector<int64_t> top1_count;                 // [E] tokens by their first slot
  std::optional<std::vector<double>> mean_prob;    // [E] mean of p over the tokens (Switch Transformer, P)
  std::vector<std::optional<double>> mean_weight;  // [E] mean gate weight over the selections of e; empty: none
  std::optional<std::vector<double>> usage;        // [E] c / T, sums to K (EasySteer)
  std::optional<std::vector<double>> load_ratio;   // [E] c / mean(c); 0 is a dead expert

  // [E, E] row-major, tokens that selected both; the diagonal is c. Empty: the sums do not hold pairs.
  std::vector<int64_t> coactivation;
};

enum class MetricCondition { kAlways, kSigmoidScores };

/// A row of the table of metrics: a name under which files hold the metric, and where its value is.
struct RouterMetric {
  const char* name;
  const char* unit;   // "": a pure number
  const char* shape;  // "[]", "[E]" or "[E, E]"
  std::variant<int64_t RouterMetrics::*, double RouterMetrics::*, std::optional<double> RouterMetrics::*,
               std::vector<int64_t> RouterMetrics::*, std::optional<std::vector<double>> RouterMetrics::*,
               std::vector<std::optional<double>> RouterMetrics::*>
      member;
  MetricCondition condition = MetricCondition::kAlways;  // which routers have it
};

/// All metrics, in the order in which files hold them. The one place of their names.
inline constexpr auto kRouterMetrics = std::to_array<RouterMetric>({
    {"tokens", "tokens", "[]", &RouterMetrics::tokens},
    {"dropped_tokens", "tokens", "[]", &RouterMetrics::dropped_tokens},
    {"invalid_ids", "slots", "[]", &RouterMetrics::invalid_ids},
    {"out_of_range_terms", "values", "[]", &RouterMetrics::out_of_range_terms},
    {"entropy_all", "nats", "[]", &RouterMetrics::entropy_all},
    {"entropy_topk", "nats", "[]", &RouterMetrics::entropy_topk},
    {"entropy_all_bits", "bits", "[]", &RouterMetrics::entropy_all_bits},
    {"entropy_ratio", "", "[]", &RouterMetrics::entropy_ratio},
    {"score_entropy", "nats", "[]", &RouterMetrics::score_entropy, MetricCondition::kSigmoidScores},
    {"margin", "", "[]", &RouterMetrics::margin},
    {"router_z_loss", "", "[]", &RouterMetrics::router_z_loss},
    {"balance_loss", "", "[]", &RouterMetrics::balance_loss},
    {"load_cv", "", "[]", &RouterMetrics::load_cv},
    {"max_violation", "", "[]", &RouterMetrics::max_violation},
    {"gini", "", "[]", &RouterMetrics::gini},
    {"jain", "", "[]", &RouterMetrics::jain},
    {"active_experts", "experts", "[]", &RouterMetrics::active_experts},
    {"dead_experts", "experts", "[]", &RouterMetrics::dead_experts},
    {"underused_experts", "experts", "[]", &RouterMetrics::underused_experts},
    {"repeat_rate", "", "[]", &RouterMetrics::repeat_rate},
    {"selected_count", "selections", "[E]", &RouterMetrics::selected_count},
    {"zero_weight_count", "selections", "[E]", &RouterMetrics::zero_weight_count},
    {"top1_count", "tokens", "[E]", &RouterMetrics::top1_count},
    {"mean_prob", "", "[E]", &RouterMetrics::mean_prob},
    {"mean_weight", "", "[E]", &RouterMetrics::mean_weight},
    {"usage", "selections a token", "[E]", &RouterMetrics::usage},
    {"load_ratio", "", "[E]", &RouterMetrics::load_ratio},
    {"coactivation", "tokens", "[E, E]", &RouterMetrics::coactivation},
});

/// Turns sums into metrics, over all rows together. Host sums only, normalized or not. Default-constructed sums give
/// zeros and empty values.
RouterMetrics finalize(const RouterSums& sums);

/// What LibMoE's evaluation logs of one router; formulas over [B, N] with B = the rows that have tokens, N = the tokens
/// of each row (rows may differ in length). Names are LibMoE's. Each member has a row in `kLibMoeMetrics`.
struct LibMoeMetrics {
  std::optional<double> entropy_weight_topk;              // mean over all tokens
  std::optional<double> entropy_weight_all;               // mean over all tokens
  std::optional<std::vector<int64_t>> dist_experts_top1;  // [E] counts of argmax p
  std::vector<int64_t> dist_experts_top2;                 // [E] counts of all K slots, zero weights too
  std::optional<double> balance_loss;                     // E^2 * mean over (b, e) of f * P; f from the first slot
  std::optional<double> router_z_loss;                    // mean of logsumexp(g)^2 over all tokens
};

/// What LibMoE logs token by token, of TokenOutputs.
enum class LibMoeTokens { kMargins, kSelected };

enum class LibMoeReaders {
  kAsUsual,
  kFindBySubstring,  // no other key of a layer may contain the name
};

/// A row of the table of LibMoE's keys of a layer.
struct LibMoeMetric {
  const char* name;
  const char* unit;   // "": a pure number
  const char* shape;  // "[]" or "[E]"; of lists of tokens "[N]" or "[N * K]", token-major
  std::variant<std::optional<double> LibMoeMetrics::*, std::vector<int64_t> LibMoeMetrics::*,
               std::optional<std::vector<int64_t>> LibMoeMetrics::*, LibMoeTokens>
      value;
  std::optional<RowScalarSum> sum = std::nullopt;  // it is counted as not finite where a term of this was out of range
  LibMoeReaders readers = LibMoeReaders::kAsUsual;
  bool averaged = false;  // its mean over the layers stands in `logs_metrics_mlp`
};

/// The keys of a layer in the log, in their order. The one place of their names. The spelling of router_magine, and
/// "top2" for any K, are the format's.
inline constexpr auto kLibMoeMetrics = std::to_array<LibMoeMetric>({
    {"entropy_weight_topk", "nats", "[]", &LibMoeMetrics::entropy_weight_topk, kEntropyTopk,
     LibMoeReaders::kFindBySubstring},
    {"entropy_weight_all", "nats", "[]", &LibMoeMetrics::entropy_weight_all, kEntropyAll},
    {"dist_experts_top1", "tokens", "[E]", &LibMoeMetrics::dist_experts_top1},
    {"dist_experts_top2", "selections", "[E]", &LibMoeMetrics::dist_experts_top2},
    {"router_magine", "", "[N]", LibMoeTokens::kMargins, std::nullopt, LibMoeReaders::kFindBySubstring},
    {"balance_loss", "", "[]", &LibMoeMetrics::balance_loss, kProbability, LibMoeReaders::kAsUsual, true},
    {"router_z_loss", "", "[]", &LibMoeMetrics::router_z_loss, kLseSquared, LibMoeReaders::kAsUsual, true},
    {"selected_experts", "expert ids", "[N * K]", LibMoeTokens::kSelected, std::nullopt,
     LibMoeReaders::kFindBySubstring},
});

LibMoeMetrics finalize_libmoe(const RouterSums& sums);

}  // namespace moetap::analysis
