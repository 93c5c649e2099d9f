#include "analysis/routers/router_metrics.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "analysis/numbers/fixed_point.h"

namespace moetap::analysis {
namespace {

template <typename Metrics, typename Value>
constexpr size_t size_of(Value Metrics::* /*member*/) {
  return sizeof(Value);
}
constexpr size_t size_of(LibMoeTokens /*list*/) {
  return 0;
}

// Members have no gaps between them, so a member without a row shows as bytes that are missing. (That no member has two
// rows is tested.)
constexpr size_t kBytesOfRouterMetrics = [] {
  size_t bytes = size_of(&RouterMetrics::num_experts) + size_of(&RouterMetrics::top_k);
  for (const RouterMetric& row : kRouterMetrics) {
    bytes += std::visit([](auto member) { return size_of(member); }, row.member);
  }
  return bytes;
}();
static_assert(kBytesOfRouterMetrics == sizeof(RouterMetrics), "a member of RouterMetrics lacks its row of the table");
constexpr size_t kBytesOfLibMoeMetrics = [] {
  size_t bytes = 0;
  for (const LibMoeMetric& row : kLibMoeMetrics) {
    bytes += std::visit([](auto value) { return size_of(value); }, row.value);
  }
  return bytes;
}();
static_assert(kBytesOfLibMoeMetrics == sizeof(LibMoeMetrics), "a member of LibMoeMetrics lacks its row of the table");

/// Reads one row of sums.
class RowReader {
 public:
  RowReader(const RouterSums& sums, int64_t row)
      : layout_(sums.layout()), row_(sums.words.const_data_ptr<int64_t>() + row * layout_.row_words()) {}

  int64_t counter(RowCounter which) const { return row_[RouterSumsLayout::counter(which)]; }
  int64_t tokens() const { return counter(kTokens); }

  std::vector<int64_t> vector(RowVector which) const {
    const int64_t* begin = row_ + layout_.vector(which);
    return {begin, begin + layout_.num_experts};
  }

  int64_t terms(RowScalarSum which) const { return row_[RouterSumsLayout::scalar_sum(which) + kTermsAdded]; }

  double sum(RowScalarSum which) const {
    const int64_t* words = row_ + RouterSumsLayout::scalar_sum(which);
    return to_double(FixedPoint{words[kHighLimb], words[kLowLimb]});
  }

  /// Empty unless every token of the row gave a term.
  std::optional<double> mean(RowScalarSum which) const {
    if (tokens() == 0 || terms(which) != tokens()) return std::nullopt;
    return sum(which) / static_cast<double>(tokens());
  }

  std::vector<double> sums(RowVector high, RowVector low) const {
    std::vector<double> values(layout_.num_experts);
    for (int64_t e = 0; e < layout_.num_experts; ++e) {
      values[e] = to_double(FixedPoint{row_[layout_.vector(high) + e], row_[layout_.vector(low) + e]});
    }
    return values;
  }

  std::optional<std::vector<double>> mean_probability() const {
    if (tokens() == 0 || terms(kProbability) != tokens()) return std::nullopt;
    std::vector<double> values = sums(kProbabilityHigh, kProbabilityLow);
    for (double& value : values) value /= static_cast<double>(tokens());
    return values;
  }

 private:
  const RouterSumsLayout layout_;
  const int64_t* row_;
};

int64_t total(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

/// sum f P with f = first / T.
double sum_of_products(const std::vector<int64_t>& first, const std::vector<double>& mean_probability, int64_t tokens) {
  double sum = 0;
  for (size_t e = 0; e < first.size(); ++e) sum += static_cast<double>(first[e]) * mean_probability[e];
  return sum / static_cast<double>(tokens);
}

double coefficient_of_variation(const std::vector<int64_t>& counts) {
  const auto num_experts = static_cast<double>(counts.size());
  const double mean = static_cast<double>(total(counts)) / num_experts;
  if (counts.size() == 1 || mean == 0) return 0;
  double squares = 0;
  for (const int64_t count : counts)
    squares += (static_cast<double>(count) - mean) * (static_cast<double>(count) - mean);
  return std::sqrt(squares / (num_experts - 1)) / mean;
}

double gini(std::vector<int64_t> counts) {
  std::sort(counts.begin(), counts.end());
  const auto num_experts = static_cast<double>(counts.size());
  double weighted = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    weighted += (2 * static_cast<double>(i + 1) - num_experts - 1) * static_cast<double>(counts[i]);
  }
  return weighted / (num_experts * static_cast<double>(total(counts)));
}

double jain(const std::vector<int64_t>& counts) {
  double sum = 0, squares = 0;
  for (const int64_t count : counts) {
    sum += static_cast<double>(count);
    squares += static_cast<double>(count) * static_cast<double>(count);
  }
  return sum * sum / (static_cast<double>(counts.size()) * squares);
}

void finalize_load(RouterMetrics& metrics) {
  const std::vector<int64_t>& counts = metrics.selected_count;
  const double mean = static_cast<double>(total(counts)) / static_cast<double>(counts.size());
  metrics.load_cv = coefficient_of_variation(counts);
  metrics.active_experts = std::count_if(counts.begin(), counts.end(), [](int64_t c) { return c > 0; });
  metrics.dead_experts = metrics.num_experts - metrics.active_experts;
  metrics.underused_experts =
      std::count_if(counts.begin(), counts.end(), [&](int64_t c) { return static_cast<double>(c) < mean / 2; });
  if (metrics.tokens > 0) {
    metrics.usage.emplace();
    for (const int64_t c : counts)
      metrics.usage->push_back(static_cast<double>(c) / static_cast<double>(metrics.tokens));
  }
  if (mean == 0) return;
  metrics.max_violation = static_cast<double>(*std::max_element(counts.begin(), counts.end())) / mean - 1;
  metrics.gini = gini(counts);
  metrics.jain = jain(counts);
  metrics.load_ratio.emplace();
  for (const int64_t c : counts) metrics.load_ratio->push_back(static_cast<double>(c) / mean);
}

void finalize_weights(RouterMetrics& metrics, const RowReader& row) {
  metrics.mean_weight.assign(metrics.num_experts, std::nullopt);
  if (row.terms(kWeight) != total(metrics.selected_count)) return;
  const std::vector<double> sums = row.sums(kWeightHigh, kWeightLow);
  for (int64_t e = 0; e < metrics.num_experts; ++e) {
    if (metrics.selected_count[e] > 0)
      metrics.mean_weight[e] = sums[e] / static_cast<double>(metrics.selected_count[e]);
  }
}

std::vector<int64_t> full_coactivation(const RouterSums& sums, const std::vector<int64_t>& selected_count) {
  const RouterSumsLayout layout = sums.layout();
  if (!sums.has_pairs && layout.pair_words() > 0) return {};
  const int64_t num_experts = layout.num_experts;
  const int64_t* pairs = sums.words.const_data_ptr<int64_t>() + layout.pairs_begin();
  std::vector<int64_t> table(num_experts * num_experts, 0);
  for (int64_t i = 0; i < num_experts; ++i) {
    table[i * num_experts + i] = selected_count[i];
    for (int64_t j = i + 1; sums.has_pairs && j < num_experts; ++j) {
      table[i * num_experts + j] = table[j * num_experts + i] = pairs[layout.pair_index(i, j)];
    }
  }
  return table;
}

int64_t all_out_of_range(const RouterSums& sums) {
  int64_t terms = 0;
  for (int64_t which = 0; which < kNumScalarSums; ++which) terms += sums.out_of_range(static_cast<RowScalarSum>(which));
  return terms;
}

}  // namespace

RouterMetrics finalize(const RouterSums& sums) {
  RouterMetrics metrics;
  if (!sums.defined()) return metrics;
  const RouterSums all = sum_rows(sums);
  const RowReader row(all, 0);
  metrics.num_experts = all.num_experts;
  metrics.top_k = all.top_k;
  metrics.tokens = row.tokens();
  metrics.dropped_tokens = row.counter(kDroppedTokens);
  metrics.invalid_ids = row.counter(kInvalidIds);
  metrics.out_of_range_terms = all_out_of_range(all);
  metrics.selected_count = row.vector(kSelected);
  metrics.zero_weight_count = row.vector(kZeroWeight);
  metrics.top1_count = row.vector(kFirstSlot);
  finalize_load(metrics);
  finalize_weights(metrics, row);
  metrics.coactivation = full_coactivation(all, metrics.selected_count);

  metrics.mean_prob = row.mean_probability();
  metrics.entropy_all = row.mean(kEntropyAll);
  metrics.entropy_topk = row.mean(kEntropyTopk);
  metrics.margin = row.mean(kMargin);
  metrics.router_z_loss = row.mean(kLseSquared);
  metrics.score_entropy = row.mean(kScoreEntropy);
  const auto num_experts = static_cast<double>(metrics.num_experts);
  if (metrics.entropy_all) {
    metrics.entropy_all_bits = *metrics.entropy_all / std::log(2.0);
    if (metrics.num_experts > 1) metrics.entropy_ratio = *metrics.entropy_all / std::log(num_experts);
  }
  if (metrics.mean_prob) {
    metrics.balance_loss = num_experts * sum_of_products(metrics.top1_count, *metrics.mean_prob, metrics.tokens);
  }
  if (const int64_t pairs = row.counter(kRepeatPairs); pairs > 0) {
    metrics.repeat_rate = static_cast<double>(row.counter(kRepeatHits)) / static_cast<double>(pairs);
  }
  return metrics;
}

LibMoeMetrics finalize_libmoe(const RouterSums& sums) {
  LibMoeMetrics metrics;
  if (!sums.defined()) return metrics;
  const RouterSums all = sum_rows(sums);
  const RowReader together(all, 0);
  metrics.entropy_weight_topk = together.mean(kEntropyTopk);
  metrics.entropy_weight_all = together.mean(kEntropyAll);
  metrics.router_z_loss = together.mean(kLseSquared);
  metrics.dist_experts_top2 = together.vector(kSelected);
  const std::vector<int64_t> zero_weight = together.vector(kZeroWeight);
  for (size_t e = 0; e < zero_weight.size(); ++e) metrics.dist_experts_top2[e] += zero_weight[e];
  if (together.tokens() == 0 || together.terms(kProbability) != together.tokens()) return metrics;
  metrics.dist_experts_top1 = together.vector(kTopProbability);

  // E^2 times the mean over (b, e) of f P is E times the mean over b of the sum over e.
  double products = 0;
  int64_t num_rows = 0;
  for (int64_t b = 0; b < sums.num_rows; ++b) {
    const RowReader row(sums, b);
    if (row.tokens() == 0) continue;
    products += sum_of_products(row.vector(kFirstSlot), *row.mean_probability(), row.tokens());
    ++num_rows;
  }
  metrics.balance_loss = static_cast<double>(sums.num_experts) * products / static_cast<double>(num_rows);
  return metrics;
}

}  // namespace moetap::analysis
