#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "analysis/attention/attention_sums.h"

namespace moetap::analysis {

/// The metrics of one attention layer over the rows of its sums. H = num_heads, R = num_regions. Every number is
/// finite; empty: there was nothing to measure, or a value was infinite or NaN. Where rows were sampled, means are
/// estimates over all rows.
struct AttentionMetrics {
  int64_t num_heads = 0;
  int64_t num_regions = 0;
  bool self = true;

  int64_t rows = 0;              // measured
  int64_t empty_rows = 0;        // queries whose keys are all masked; left out
  int64_t not_finite_rows = 0;   // with an infinite or NaN probability; then there are no means
  int64_t not_sampled_rows = 0;  // queries that sampling left out

  // Means over rows: see Note [Values of an attention row].
  std::optional<double> entropy;
  std::optional<double> max_weight;
  std::optional<double> key_mass;
  std::optional<double> distance;
  std::optional<double> self_weight;
  std::optional<double> diagonal;
  std::optional<double> diagonal_expected;
  std::optional<double> far;
  std::optional<double> far_expected;
  std::optional<double> first;
  std::optional<double> last;
  std::optional<std::vector<double>> region_mass;  // [R]
  std::optional<double> received;

  std::vector<std::optional<double>> flow;            // [R, R], from the query's region to the key's; rows sum to 1
  std::vector<std::optional<double>> specialization;  // [6] observed / expected mass, in the order of kPlaneRegionNames
  std::vector<std::optional<double>> head_entropy;    // [H] means over rows
  std::vector<std::optional<double>> head_distance;
  std::vector<std::optional<double>> head_first;
  std::vector<std::optional<double>> head_max_logit;  // [H] largest score before the softmax
  // [C] of the mean of each column of `attention_columns`, in that order. Empty: all rows were measured
  std::optional<std::vector<double>> standard_error;
};

enum class AttentionCondition {
  kAlways,
  kSelf,     // where the queries are keys
  kSampled,  // where rows were sampled
};

/// A row of the table of metrics: a name under which files hold the metric, and where its value is.
struct AttentionMetric {
  const char* name;
  const char* unit;  // "": a pure number
  const char*
      shape;  // "[]", "[H]", "[R]", "[R, R]", "[6]" (keys: kPlaneRegionNames) or "[C]" (keys: attention_columns)
  std::variant<int64_t AttentionMetrics::*, std::optional<double> AttentionMetrics::*,
               std::optional<std::vector<double>> AttentionMetrics::*,
               std::vector<std::optional<double>> AttentionMetrics::*>
      member;
  AttentionCondition condition = AttentionCondition::kAlways;
};

/// All metrics, in the order in which files hold them. The one place of their names.
inline constexpr auto kAttentionMetrics = std::to_array<AttentionMetric>({
    {"rows", "rows", "[]", &AttentionMetrics::rows},
    {"empty_rows", "rows", "[]", &AttentionMetrics::empty_rows},
    {"not_finite_rows", "rows", "[]", &AttentionMetrics::not_finite_rows},
    {"not_sampled_rows", "rows", "[]", &AttentionMetrics::not_sampled_rows, AttentionCondition::kSampled},
    {"entropy", "nats", "[]", &AttentionMetrics::entropy},
    {"max_weight", "", "[]", &AttentionMetrics::max_weight},
    {"key_mass", "", "[]", &AttentionMetrics::key_mass},
    {"distance", "positions", "[]", &AttentionMetrics::distance},
    {"self", "", "[]", &AttentionMetrics::self_weight, AttentionCondition::kSelf},
    {"diagonal", "", "[]", &AttentionMetrics::diagonal},
    {"diagonal_expected", "", "[]", &AttentionMetrics::diagonal_expected},
    {"far", "", "[]", &AttentionMetrics::far},
    {"far_expected", "", "[]", &AttentionMetrics::far_expected},
    {"first", "", "[]", &AttentionMetrics::first},
    {"last", "", "[]", &AttentionMetrics::last},
    {"region_mass", "", "[R]", &AttentionMetrics::region_mass},
    {"received", "", "[]", &AttentionMetrics::received, AttentionCondition::kSelf},
    {"flow", "", "[R, R]", &AttentionMetrics::flow},
    {"specialization", "", "[6]", &AttentionMetrics::specialization},
    {"head_entropy", "nats", "[H]", &AttentionMetrics::head_entropy},
    {"head_distance", "positions", "[H]", &AttentionMetrics::head_distance},
    {"head_first", "", "[H]", &AttentionMetrics::head_first},
    {"head_max_logit", "", "[H]", &AttentionMetrics::head_max_logit},
    {"standard_error", "", "[C]", &AttentionMetrics::standard_error, AttentionCondition::kSampled},
});

/// Turns sums into metrics, over all rows together; without what is shared, the metrics from `flow` on are empty. Host
/// sums only, normalized or not.
AttentionMetrics finalize(const AttentionSums& sums);

/// What the experts' tokens attend to, weighted by gate weights g. E = num_experts. Empty: the denominator is 0.
struct AttentionExpertMetrics {
  int64_t num_experts = 0;
  int64_t num_regions = 0;

  std::vector<double> gate_mass;                      // [E] sum g
  std::vector<std::optional<double>> mean_distance;   // [E] sum g distance / sum g
  std::vector<std::optional<double>> entropy;         // [E] sum g entropy / sum g
  std::vector<std::optional<double>> received;        // [E] sum g received; empty where queries are no keys
  std::vector<double> flow;                           // [E, R, R], rows sum to 1, or to 0 without evidence
  std::vector<double> flow_weight;                    // [E, R] what the rows of `flow` were divided by
  std::vector<std::optional<double>> specialization;  // [E, 6]
  std::vector<double> pattern;       // [E, 16, 16] from the query's bin to the key's; rows sum to 1 or 0
  int64_t unassigned_slots = 0;      // whose id is no expert; left out
  int64_t out_of_range_weights = 0;  // gate weights that are infinite or NaN; left out
};

struct AttentionExpertMetric {
  const char* name;
  const char* unit;
  const char* shape;  // "[]", "[E]", "[E, R]", "[E, R, R]", "[E, 6]" or "[E, 16, 16]"
  std::variant<int64_t AttentionExpertMetrics::*, std::vector<double> AttentionExpertMetrics::*,
               std::vector<std::optional<double>> AttentionExpertMetrics::*>
      member;
};

inline constexpr auto kAttentionExpertMetrics = std::to_array<AttentionExpertMetric>({
    {"gate_mass", "gate weights", "[E]", &AttentionExpertMetrics::gate_mass},
    {"mean_distance", "positions", "[E]", &AttentionExpertMetrics::mean_distance},
    {"entropy", "nats", "[E]", &AttentionExpertMetrics::entropy},
    {"received", "", "[E]", &AttentionExpertMetrics::received},
    {"flow", "", "[E, R, R]", &AttentionExpertMetrics::flow},
    {"flow_weight", "gate weights", "[E, R]", &AttentionExpertMetrics::flow_weight},
    {"specialization", "", "[E, 6]", &AttentionExpertMetrics::specialization},
    {"pattern", "", "[E, 16, 16]", &AttentionExpertMetrics::pattern},
    {"unassigned_slots", "slots", "[]", &AttentionExpertMetrics::unassigned_slots},
    {"out_of_range_weights", "slots", "[]", &AttentionExpertMetrics::out_of_range_weights},
});

/// Sums with experts and what is shared. Host sums only.
AttentionExpertMetrics finalize_experts(const AttentionSums& sums);

}  // namespace moetap::analysis
