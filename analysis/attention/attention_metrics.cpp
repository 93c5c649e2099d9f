#include "analysis/attention/attention_metrics.h"

#include <c10/util/Exception.h>

#include <cmath>

#include "analysis/numbers/fixed_point.h"

namespace moetap::analysis {
namespace {

template <typename Metrics, typename Value>
constexpr size_t size_of(Value Metrics::* /*member*/) {
  return sizeof(Value);
}

template <typename Table>
constexpr size_t bytes_of(const Table& table) {
  size_t bytes = 0;
  for (const auto& row : table) bytes += std::visit([](auto member) { return size_of(member); }, row.member);
  return bytes;
}

// A member without a row shows as bytes that are missing. (That no member has two rows is tested.) `self` has padding.
static_assert(bytes_of(kAttentionMetrics) + 3 * sizeof(int64_t) == sizeof(AttentionMetrics),
              "a member of AttentionMetrics lacks its row of the table");
static_assert(bytes_of(kAttentionExpertMetrics) + 2 * sizeof(int64_t) == sizeof(AttentionExpertMetrics),
              "a member of AttentionExpertMetrics lacks its row of the table");

std::optional<double> ratio(double numerator, double denominator) {
  if (!(denominator != 0) || !std::isfinite(denominator)) return std::nullopt;
  return numerator / denominator;
}

/// Reads sums that are one row.
class SumReader {
 public:
  explicit SumReader(const AttentionSums& sums)
      : layout_(sums.layout()), words_(sums.words.const_data_ptr<int64_t>()) {}

  int64_t counter(AttentionCounter which) const { return words_[which]; }
  int64_t counter(AttentionSharedCounter which) const { return words_[layout_.shared_begin() + which]; }
  double weight() const { return row_sum(0); }
  double column(int64_t column) const { return row_sum(1 + column); }
  double shared(int64_t sum) const {
    return to_double(FixedPoint{words_[layout_.high(sum)], words_[layout_.low(sum)]});
  }
  int64_t max_score(int64_t head) const { return words_[layout_.max_score(head)]; }

  double total(int64_t from, int64_t count) const {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += shared(from + i);
    return total;
  }

 private:
  double row_sum(int64_t sum) const {
    return to_double(FixedPoint{words_[layout_.row_high(sum)], words_[layout_.row_low(sum)]});
  }

  const AttentionSumsLayout layout_;
  const int64_t* words_;
};

void set_means(AttentionMetrics& metrics, const SumReader& sums) {
  const double weight = sums.weight();
  if (!(weight > 0) || metrics.not_finite_rows > 0) return;
  const auto mean = [&](int64_t column) { return sums.column(column) / weight; };
  metrics.entropy = mean(kEntropy);
  metrics.max_weight = mean(kMaxWeight);
  metrics.key_mass = mean(kKeyMass);
  metrics.distance = mean(kDistance);
  if (metrics.self) metrics.self_weight = mean(kSelf);
  metrics.diagonal = mean(kDiagonal);
  metrics.diagonal_expected = mean(kDiagonalExpected);
  metrics.far = mean(kFar);
  metrics.far_expected = mean(kFarExpected);
  metrics.first = mean(kFirst);
  metrics.last = mean(kLast);
  metrics.region_mass.emplace();
  for (int64_t region = 0; region < metrics.num_regions; ++region) {
    metrics.region_mass->push_back(mean(region_column(region)));
  }
  if (metrics.self) metrics.received = mean(received_column(metrics.num_regions));
}

void set_shared(AttentionMetrics& metrics, const AttentionSumsLayout& layout, const SumReader& sums) {
  using Value = std::optional<double>;
  for (int64_t region = 0; region < layout.num_regions; ++region) {
    const double total = sums.total(layout.flow(region, 0), layout.num_regions);
    for (int64_t to = 0; to < layout.num_regions; ++to) {
      metrics.flow.push_back(ratio(sums.shared(layout.flow(region, to)), total));
    }
  }
  for (int64_t region = 0; region < kNumPlaneRegions; ++region) {
    metrics.specialization.push_back(ratio(sums.shared(layout.observed(region)), sums.shared(layout.expected(region))));
  }
  const double weight = sums.weight();
  const auto mean = [&](int64_t sum) -> Value {
    if (!(weight > 0) || metrics.not_finite_rows > 0) return std::nullopt;
    return sums.shared(sum) / weight;
  };
  for (int64_t head = 0; head < layout.num_heads; ++head) {
    metrics.head_entropy.push_back(mean(layout.head(head, kHeadEntropy)));
    metrics.head_distance.push_back(mean(layout.head(head, kHeadDistance)));
    metrics.head_first.push_back(mean(layout.head(head, kHeadFirst)));
    const int64_t code = sums.max_score(head);
    const double score = code == 0 ? HUGE_VAL : score_of_code(code);
    metrics.head_max_logit.push_back(std::isfinite(score) ? Value(score) : std::nullopt);
  }
  if (metrics.not_sampled_rows == 0 || !metrics.entropy) return;
  metrics.standard_error.emplace();
  for (const AttentionColumn& column : attention_columns(layout.num_regions, metrics.self)) {
    metrics.standard_error->push_back(std::sqrt(sums.shared(layout.variance(column.column))) / weight);
  }
}

}  // namespace

AttentionMetrics finalize(const AttentionSums& sums) {
  AttentionMetrics metrics;
  metrics.num_heads = sums.num_heads;
  metrics.num_regions = sums.num_regions;
  metrics.self = sums.self;
  if (!sums.defined()) return metrics;
  const AttentionSums total = sum_rows(sums);
  const SumReader reader(total);
  metrics.rows = reader.counter(kMeasuredRows);
  metrics.empty_rows = reader.counter(kEmptyRows);
  metrics.not_finite_rows = reader.counter(kNotFiniteRows);
  metrics.not_sampled_rows = reader.counter(kQueries) - metrics.rows - metrics.empty_rows - metrics.not_finite_rows;
  set_means(metrics, reader);
  if (total.has_shared) set_shared(metrics, total.layout(), reader);
  return metrics;
}

AttentionExpertMetrics finalize_experts(const AttentionSums& sums) {
  AttentionExpertMetrics metrics;
  metrics.num_experts = sums.num_experts;
  metrics.num_regions = sums.num_regions;
  if (!sums.defined()) return metrics;
  TORCH_CHECK(sums.has_shared, "finalize_experts: the sums lack what is shared by rows");
  const AttentionSums total = sum_rows(sums);
  const AttentionSumsLayout layout = total.layout();
  const SumReader reader(total);
  for (int64_t expert = 0; expert < layout.num_experts; ++expert) {
    const int64_t begin = layout.expert(expert);
    const double mass = reader.shared(begin + kGateMass);
    metrics.gate_mass.push_back(mass);
    metrics.mean_distance.push_back(ratio(reader.shared(begin + kExpertDistance), mass));
    metrics.entropy.push_back(ratio(reader.shared(begin + kExpertEntropy), mass));
    metrics.received.push_back(sums.self ? std::optional(reader.shared(begin + kExpertReceived)) : std::nullopt);
    for (int64_t from = 0; from < layout.num_regions; ++from) {
      const int64_t flow = begin + layout.expert_flow(from, 0);
      const double weight = reader.total(flow, layout.num_regions);
      metrics.flow_weight.push_back(weight);
      for (int64_t to = 0; to < layout.num_regions; ++to) {
        metrics.flow.push_back(weight != 0 ? reader.shared(flow + to) / weight : 0);
      }
    }
    for (int64_t region = 0; region < kNumPlaneRegions; ++region) {
      metrics.specialization.push_back(ratio(reader.shared(begin + layout.expert_observed(region)),
                                             reader.shared(begin + layout.expert_expected(region))));
    }
    for (int64_t query_bin = 0; query_bin < kPatternBins; ++query_bin) {
      const double weight = reader.shared(begin + layout.pattern_weight(query_bin));
      for (int64_t key_bin = 0; key_bin < kPatternBins; ++key_bin) {
        metrics.pattern.push_back(weight != 0 ? reader.shared(begin + layout.pattern(query_bin, key_bin)) / weight : 0);
      }
    }
  }
  metrics.unassigned_slots = reader.counter(kUnassignedSlots);
  metrics.out_of_range_weights = reader.counter(kWeightsOutOfRange);
  return metrics;
}

}  // namespace moetap::analysis
