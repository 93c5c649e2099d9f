#include "analysis/routers/router_metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/analysis/routers/router_calls.h"

namespace moetap::analysis {
namespace {

using Counts = std::vector<int64_t>;

class RouterMetricsTest : public PathTest {};
INSTANTIATE_TEST_SUITE_P(Paths, RouterMetricsTest, all_paths(), path_name);

/// Three tokens whose numbers can be followed by hand: probabilities as below, logits ln p + 1, 2 and 3.
RouterCall small_call() {
  const at::Tensor p =
      at::tensor({0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1, 0.7, 0.1, 0.1, 0.1}, at::kDouble).view({3, 4});
  RouterCall call;
  call.num_experts = 4;
  call.logits = p.log() + at::tensor({1.0, 2.0, 3.0}, at::kDouble).unsqueeze(1);
  call.selected = at::tensor({3, 2, 0, 1, 1, 3}, at::kLong).view({3, 2});
  call.weights = at::tensor({0.6, 0.4, 0.5, 0.5, 0.3, 0.7}, at::kDouble).view({3, 2});
  return call;
}

void expect_near(const std::optional<std::vector<double>>& actual, const std::vector<double>& expected,
                 double tolerance) {
  ASSERT_TRUE(actual.has_value());
  ASSERT_EQ(actual->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR((*actual)[i], expected[i], tolerance) << i;
}

TEST_P(RouterMetricsTest, SmallCallByHand) {
  const RouterMetrics m = finalize(observe_on(GetParam(), small_call()));
  EXPECT_EQ(m.num_experts, 4);
  EXPECT_EQ(m.top_k, 2);
  EXPECT_EQ(m.tokens, 3);
  EXPECT_EQ(m.selected_count, (Counts{1, 2, 1, 2}));
  EXPECT_EQ(m.zero_weight_count, Counts(4, 0));
  EXPECT_EQ(m.top1_count, (Counts{1, 0, 0, 2})) << "token 2's first slot is its second column";
  expect_near(m.mean_prob, {0.4, 0.2, 0.2, 0.2}, 1e-12);
  const double mean_weight[] = {0.5, 0.4, 0.4, 0.65};
  for (int e = 0; e < 4; ++e) EXPECT_NEAR(m.mean_weight[e].value(), mean_weight[e], 1e-12);
  expect_near(m.usage, {1.0 / 3, 2.0 / 3, 1.0 / 3, 2.0 / 3}, 1e-15);
  EXPECT_NEAR(*m.entropy_topk, (0.6730116670092565 + 0.6931471805599453 + 0.6108643020548935) / 3, 3e-9);
  EXPECT_NEAR(*m.entropy_all, (2 * 1.2798542258336676 + 0.9404479886553264) / 3, 5e-9);
  EXPECT_DOUBLE_EQ(*m.entropy_all_bits, *m.entropy_all * 1.4426950408889634);
  EXPECT_DOUBLE_EQ(*m.entropy_ratio, *m.entropy_all / 1.3862943611198906);
  EXPECT_NEAR(*m.margin, (0.2 + 0 + 0.4) / 3, 1e-12);
  EXPECT_NEAR(*m.router_z_loss, (1.0 + 4 + 9) / 3, 1e-12);
  EXPECT_NEAR(*m.balance_loss, 4 * (1.0 / 3 * 0.4 + 2.0 / 3 * 0.2), 1e-12);
  EXPECT_NEAR(m.load_cv, std::sqrt(1.0 / 3) / 1.5, 1e-15);
  EXPECT_NEAR(*m.max_violation, 1.0 / 3, 1e-15);
  EXPECT_NEAR(*m.gini, 1.0 / 6, 1e-15);
  EXPECT_NEAR(*m.jain, 0.9, 1e-15);
  expect_near(m.load_ratio, {2.0 / 3, 4.0 / 3, 2.0 / 3, 4.0 / 3}, 1e-15);
  EXPECT_EQ(m.active_experts, 4);
  EXPECT_EQ(m.dead_experts, 0);
  EXPECT_EQ(m.underused_experts, 0);
  EXPECT_EQ(m.coactivation, (Counts{1, 1, 0, 0, 1, 2, 0, 1, 0, 0, 1, 1, 0, 1, 1, 2}));
  EXPECT_EQ(m.repeat_rate, 0.0);
  EXPECT_EQ(m.dropped_tokens, 0);
  EXPECT_EQ(m.out_of_range_terms, 0);
  EXPECT_FALSE(m.score_entropy);
}

TEST_P(RouterMetricsTest, LoadOfUnevenExperts) {
  RouterCall call;
  call.num_experts = 5;
  call.selected = at::tensor({0, 0, 0, 0, 0, 0, 1, 1, 2, 3}, at::kLong).unsqueeze(1);  // c = 6 2 1 1 0, mean 2
  const RouterMetrics m = finalize(observe_on(GetParam(), call));
  EXPECT_EQ(m.active_experts, 4);
  EXPECT_EQ(m.dead_experts, 1);
  EXPECT_EQ(m.underused_experts, 1) << "1 is not below half of the mean, 0 is";
  EXPECT_EQ(m.max_violation, 2.0);
  EXPECT_NEAR(m.load_cv, std::sqrt((16.0 + 0 + 1 + 1 + 4) / 4) / 2, 1e-15);
  EXPECT_NEAR(*m.gini, (-4.0 * 0 - 2 * 1 + 0 * 1 + 2 * 2 + 4 * 6) / (5 * 10), 1e-15);
  EXPECT_NEAR(*m.jain, 100.0 / (5 * 42), 1e-15);
  EXPECT_NEAR(*m.repeat_rate, 6.0 / 9, 1e-15);
}

TEST(RouterMetricTableTest, RowsAreThoseOfTheDefinition) {
  struct Expected {
    const char *name, *unit, *shape;
  };
  constexpr Expected kExpected[] = {
      {"tokens", "tokens", "[]"},
      {"dropped_tokens", "tokens", "[]"},
      {"invalid_ids", "slots", "[]"},
      {"out_of_range_terms", "values", "[]"},
      {"entropy_all", "nats", "[]"},
      {"entropy_topk", "nats", "[]"},
      {"entropy_all_bits", "bits", "[]"},
      {"entropy_ratio", "", "[]"},
      {"score_entropy", "nats", "[]"},
      {"margin", "", "[]"},
      {"router_z_loss", "", "[]"},
      {"balance_loss", "", "[]"},
      {"load_cv", "", "[]"},
      {"max_violation", "", "[]"},
      {"gini", "", "[]"},
      {"jain", "", "[]"},
      {"active_experts", "experts", "[]"},
      {"dead_experts", "experts", "[]"},
      {"underused_experts", "experts", "[]"},
      {"repeat_rate", "", "[]"},
      {"selected_count", "selections", "[E]"},
      {"zero_weight_count", "selections", "[E]"},
      {"top1_count", "tokens", "[E]"},
      {"mean_prob", "", "[E]"},
      {"mean_weight", "", "[E]"},
      {"usage", "selections a token", "[E]"},
      {"load_ratio", "", "[E]"},
      {"coactivation", "tokens", "[E, E]"},
  };
  ASSERT_EQ(kRouterMetrics.size(), std::size(kExpected));
  for (size_t i = 0; i < kRouterMetrics.size(); ++i) {
    EXPECT_STREQ(kRouterMetrics[i].name, kExpected[i].name);
    EXPECT_STREQ(kRouterMetrics[i].unit, kExpected[i].unit) << kExpected[i].name;
    EXPECT_STREQ(kRouterMetrics[i].shape, kExpected[i].shape) << kExpected[i].name;
    for (size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(kRouterMetrics[i].member == kRouterMetrics[j].member)
          << "one member, two rows: " << kExpected[i].name;
    }
  }
}

// Numbers that differ by member, so that a row that points to another member shows.
TEST(RouterMetricTableTest, RowsPointToTheirMembers) {
  RouterCall call = small_call();
  call.sigmoid_scores = true;
  const RouterMetrics m = finalize(observe_on(Path::kReference, call));
  const auto number = [&](const std::string& name) {
    for (const RouterMetric& metric : kRouterMetrics) {
      if (metric.name != name) continue;
      if (const auto* whole = std::get_if<int64_t RouterMetrics::*>(&metric.member)) {
        return static_cast<double>(m.*(*whole));
      }
      if (const auto* real = std::get_if<double RouterMetrics::*>(&metric.member)) return m.*(*real);
      return (m.*std::get<std::optional<double> RouterMetrics::*>(metric.member)).value();
    }
    return std::nan("");
  };
  EXPECT_EQ(number("tokens"), 3);
  EXPECT_EQ(number("active_experts"), 4);
  EXPECT_EQ(number("entropy_all"), m.entropy_all);
  EXPECT_EQ(number("entropy_topk"), m.entropy_topk);
  EXPECT_EQ(number("entropy_all_bits"), m.entropy_all_bits);
  EXPECT_EQ(number("entropy_ratio"), m.entropy_ratio);
  EXPECT_EQ(number("score_entropy"), m.score_entropy);
  EXPECT_EQ(number("margin"), m.margin);
  EXPECT_EQ(number("router_z_loss"), m.router_z_loss);
  EXPECT_EQ(number("balance_loss"), m.balance_loss);
  EXPECT_EQ(number("load_cv"), m.load_cv);
  EXPECT_EQ(number("max_violation"), m.max_violation);
  EXPECT_EQ(number("gini"), m.gini);
  EXPECT_EQ(number("jain"), m.jain);
  EXPECT_EQ(number("repeat_rate"), m.repeat_rate);
  for (const RouterMetric& metric : kRouterMetrics) {
    const std::string shape = metric.shape;
    const size_t size = shape == "[E]" ? 4 : shape == "[E, E]" ? 16 : 1;
    const size_t actual = std::visit(
        [&](auto member) -> size_t {
          using Value = std::decay_t<decltype(m.*member)>;
          if constexpr (std::is_same_v<Value, std::optional<std::vector<double>>>) {
            return (m.*member)->size();
          } else if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::optional<double>>) {
            return 1;
          } else {
            return (m.*member).size();
          }
        },
        metric.member);
    EXPECT_EQ(actual, size) << metric.name;
  }
}

TEST(RouterMetricsEmptyTest, NothingObserved) {
  EXPECT_EQ(finalize(RouterSums{}).tokens, 0);
  EXPECT_FALSE(finalize_libmoe(RouterSums{}).balance_loss);
}

// Written from the formulas, token by token and in double precision; shares nothing with the product but its inputs.
struct Naive {
  double entropy_all = 0, entropy_topk = 0, margin = 0, z_loss = 0, score_entropy = 0, balance = 0;
  std::vector<double> mean_prob, weight_sum;
  Counts selected, first, largest;
  std::vector<Counts> together;

  explicit Naive(const RouterCall& call) {
    const int64_t T = call.selected.size(0), K = call.selected.size(1), E = call.num_experts;
    const at::Tensor g = call.logits.to(at::kDouble).contiguous(), w = call.weights.to(at::kDouble).contiguous();
    mean_prob.resize(E);
    weight_sum.resize(E);
    selected.resize(E);
    first.resize(E);
    largest.resize(E);
    together.assign(E, Counts(E, 0));
    for (int64_t t = 0; t < T; ++t) {
      double z = 0, scores = 0, weights = 0;
      for (int64_t e = 0; e < E; ++e) {
        z += std::exp(logit(g, t, e));
        scores += 1 / (1 + std::exp(-logit(g, t, e)));
      }
      int64_t top = 0;
      for (int64_t e = 0; e < E; ++e) {
        const double p = std::exp(logit(g, t, e)) / z, s = 1 / (1 + std::exp(-logit(g, t, e))) / scores;
        entropy_all -= p * std::log(p + 1e-9) / T;
        score_entropy -= s * std::log(s + 1e-9) / T;
        mean_prob[e] += p / T;
        if (logit(g, t, e) > logit(g, t, top)) top = e;
      }
      ++largest[top];
      z_loss += std::log(z) * std::log(z) / T;
      std::vector<std::pair<double, int64_t>> slots;
      for (int64_t k = 0; k < K; ++k) {
        const int64_t id = call.selected[t][k].item<int64_t>();
        const double weight = w[t][k].item<double>();
        slots.emplace_back(-weight, id);
        weights += weight;
        ++selected[id];
        weight_sum[id] += weight;
        for (int64_t j = 0; j < K; ++j) ++together[id][call.selected[t][j].item<int64_t>()];
      }
      std::sort(slots.begin(), slots.end());
      ++first[slots[0].second];
      margin += (slots[1].first - slots[0].first) / T;
      for (const auto& slot : slots) entropy_topk += slot.first / weights * std::log(-slot.first / weights + 1e-9) / T;
    }
    for (int64_t e = 0; e < E; ++e) balance += E * (static_cast<double>(first[e]) / T) * mean_prob[e];
  }

  static double logit(const at::Tensor& g, int64_t t, int64_t e) {
    return g.const_data_ptr<double>()[t * g.size(1) + e];
  }
};

TEST_P(RouterMetricsTest, RandomCallsAgreeWithTheFormulas) {
  uint64_t seed = 100;
  for (const CallSize size :
       {CallSize{1, 2, 2}, {40, 3, 2}, {77, 8, 2}, {33, 31, 4}, {64, 64, 8}, {21, 129, 6}, {5, 6, 6}}) {
    for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
      RouterCall call = random_call(size, ++seed, dtype);
      call.sigmoid_scores = true;
      const Naive naive(call);
      const RouterSums sums = observe_on(GetParam(), call);
      const RouterMetrics m = finalize(sums);
      SCOPED_TRACE(testing::Message() << size.num_tokens << " x " << size.num_experts << " " << dtype);
      EXPECT_EQ(m.selected_count, naive.selected);
      EXPECT_EQ(m.top1_count, naive.first);
      EXPECT_EQ(finalize_libmoe(sums).dist_experts_top1, naive.largest);
      expect_near(m.mean_prob, naive.mean_prob, 1e-11);
      EXPECT_NEAR(*m.entropy_all, naive.entropy_all, 1e-10);
      EXPECT_NEAR(*m.entropy_topk, naive.entropy_topk, 1e-10);
      EXPECT_NEAR(*m.score_entropy, naive.score_entropy, 1e-10);
      EXPECT_NEAR(*m.margin, naive.margin, 1e-11);
      EXPECT_NEAR(*m.router_z_loss, naive.z_loss, 1e-10);
      EXPECT_NEAR(*m.balance_loss, naive.balance, 1e-10);
      for (int64_t i = 0; i < size.num_experts; ++i) {
        EXPECT_EQ(m.mean_weight[i].has_value(), naive.selected[i] > 0);
        if (m.mean_weight[i]) {
          EXPECT_NEAR(*m.mean_weight[i], naive.weight_sum[i] / naive.selected[i], 1e-11);
        }
        for (int64_t j = 0; j < size.num_experts; ++j) {
          EXPECT_EQ(m.coactivation[i * size.num_experts + j], naive.together[i][j]) << i << " " << j;
        }
      }
    }
  }
}

TEST(RouterMetricsPathsTest, SmallEntropiesKeepTheirRelativeAccuracy) {
  for (const float gap : {8.0F, 12.0F, 16.0F}) {
    RouterCall call;
    call.num_experts = 2;
    call.logits = at::tensor({gap, 0.0F}).view({1, 2});
    call.selected = at::zeros({1, 1}, at::kLong);
    const double p = 1 / (1 + std::exp(-static_cast<double>(gap))), q = 1 / (1 + std::exp(static_cast<double>(gap)));
    const double expected = -(p * std::log(p + 1e-9) + q * std::log(q + 1e-9));
    for (const Path path : {Path::kReference, Path::kOperations}) {
      EXPECT_NEAR(*finalize(observe_on(path, call)).entropy_all / expected, 1, 2e-6) << gap;
    }
  }
}

}  // namespace
}  // namespace moetap::analysis
