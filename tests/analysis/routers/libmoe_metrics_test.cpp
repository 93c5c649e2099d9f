#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "analysis/routers/router_metrics.h"
#include "tests/analysis/routers/router_calls.h"

namespace moetap::analysis {
namespace {

using Counts = std::vector<int64_t>;

class LibMoeMetricsTest : public PathTest {};
INSTANTIATE_TEST_SUITE_P(Paths, LibMoeMetricsTest, all_paths(), path_name);

// Two samples of 2 and 1 tokens and a masked token; by hand.
TEST_P(LibMoeMetricsTest, RaggedBatchByHand) {
  RouterCall call;
  call.num_experts = 3;
  const at::Tensor p =
      at::tensor({0.5, 0.25, 0.25, 0.25, 0.25, 0.5, 0.9, 0.05, 0.05, 0.25, 0.5, 0.25}, at::kDouble).view({4, 3});
  call.logits = p.log() + at::tensor({1.0, -2.0, 50.0, 3.0}, at::kDouble).unsqueeze(1);
  call.selected = at::tensor({0, 1, 0, 2, 0, 1, 1, 2}, at::kLong).view({4, 2});
  call.weights = at::tensor({0.75, 0.25, 0.25, 0.75, 0.5, 0.5, 1.0, 0.0}, at::kDouble).view({4, 2});
  const RouterSums sums = observe_on(GetParam(), call, rows_of({0, 0, -1, 1}, 2));
  const LibMoeMetrics m = finalize_libmoe(sums);

  const double h = 1.5 * std::log(2.0);                            // of (1/2, 1/4, 1/4)
  const double h_topk = 2 * std::log(2.0) - 0.75 * std::log(3.0);  // of (3/4, 1/4)
  EXPECT_NEAR(*m.entropy_weight_all, h, 5e-9);
  EXPECT_NEAR(*m.entropy_weight_topk, (2 * h_topk + 0) / 3, 5e-9);
  EXPECT_EQ(m.dist_experts_top1, (Counts{1, 1, 1}));
  EXPECT_EQ(m.dist_experts_top2, (Counts{2, 2, 2})) << "the zero weight counts here";
  EXPECT_NEAR(*m.router_z_loss, (1.0 + 4 + 9) / 3, 1e-12);
  // Row 0: f = (1/2, 0, 1/2), P = (3/8, 1/4, 3/8). Row 1: f = (0, 1, 0), P = (1/4, 1/2, 1/4). 9 * mean over 6 places.
  EXPECT_NEAR(*m.balance_loss, 9.0 * (3.0 / 8 + 1.0 / 2) / 6, 1e-12);

  const LibMoeMetrics row = finalize_libmoe(select_row(sums, 1));
  EXPECT_NEAR(*row.balance_loss, 3 * 0.5, 1e-12);
  EXPECT_NEAR(*row.router_z_loss, 9.0, 1e-12);
  EXPECT_EQ(row.dist_experts_top1, (Counts{0, 1, 0}));
}

TEST_P(LibMoeMetricsTest, RowsWithoutTokensAreNotThere) {
  const RouterCall call = random_call({6, 5, 2}, 1);
  const LibMoeMetrics plain = finalize_libmoe(observe_on(GetParam(), call, rows_of({0, 0, 0, 1, 1, 1}, 2)));
  const LibMoeMetrics gaps = finalize_libmoe(observe_on(GetParam(), call, rows_of({1, 1, 1, 3, 3, 3}, 5)));
  EXPECT_EQ(plain.balance_loss, gaps.balance_loss);
  EXPECT_EQ(plain.entropy_weight_all, gaps.entropy_weight_all);
}

TEST_P(LibMoeMetricsTest, ValuesThatAreNotFiniteAreLeftOutAndCounted) {
  RouterCall call = random_call({6, 5, 2}, 2);
  call.logits[3][3] = NAN;
  const RouterSums sums = observe_on(GetParam(), call, TokenRows{{}, 2});
  const LibMoeMetrics m = finalize_libmoe(sums);
  EXPECT_FALSE(m.entropy_weight_all || m.balance_loss || m.router_z_loss || m.dist_experts_top1);
  EXPECT_TRUE(m.entropy_weight_topk);
  for (const LibMoeMetric& metric : kLibMoeMetrics) {
    if (!metric.sum) continue;
    EXPECT_EQ(sums.out_of_range(*metric.sum), *metric.sum == kEntropyTopk ? 0 : 1) << metric.name;
  }
}

TEST(LibMoeTableTest, RowsAreThoseOfTheFormat) {
  struct Expected {
    const char *name, *unit, *shape;
  };
  // In LibMoE's order. Each member has one row: sizes are checked by the compiler, names here.
  constexpr Expected kExpected[] = {{"entropy_weight_topk", "nats", "[]"},
                                    {"entropy_weight_all", "nats", "[]"},
                                    {"dist_experts_top1", "tokens", "[E]"},
                                    {"dist_experts_top2", "selections", "[E]"},
                                    {"router_magine", "", "[N]"},
                                    {"balance_loss", "", "[]"},
                                    {"router_z_loss", "", "[]"},
                                    {"selected_experts", "expert ids", "[N * K]"}};
  ASSERT_EQ(kLibMoeMetrics.size(), std::size(kExpected));
  for (size_t i = 0; i < kLibMoeMetrics.size(); ++i) {
    EXPECT_STREQ(kLibMoeMetrics[i].name, kExpected[i].name);
    EXPECT_STREQ(kLibMoeMetrics[i].unit, kExpected[i].unit) << kExpected[i].name;
    EXPECT_STREQ(kLibMoeMetrics[i].shape, kExpected[i].shape) << kExpected[i].name;
    for (size_t j = 0; j < i; ++j)
      EXPECT_FALSE(kLibMoeMetrics[i].value == kLibMoeMetrics[j].value) << "the same member";
  }
}

// The metrics that LibMoE's own modules gave for these logits, probabilities, weights and ids.
at::Tensor matrix(const nlohmann::json& rows, at::ScalarType dtype) {
  std::vector<double> values;
  for (const auto& row : rows) {
    for (const auto& value : row) values.push_back(value.get<double>());
  }
  const auto num_rows = static_cast<int64_t>(rows.size());
  return at::tensor(values, at::kDouble).view({num_rows, -1}).to(dtype);
}

at::Tensor tokens_of(const nlohmann::json& batch, at::ScalarType dtype) {
  std::vector<at::Tensor> samples;
  for (const auto& sample : batch) samples.push_back(matrix(sample, dtype));
  return at::cat(samples);
}

void expect_close(const char* key, const nlohmann::json& expected, const std::optional<double>& actual,
                  double tolerance) {
  ASSERT_TRUE(actual.has_value()) << key;
  const double value = expected.at(key).get<double>();
  EXPECT_NEAR(*actual, value, tolerance * std::max(1e-3, std::abs(value))) << key;
}

TEST_P(LibMoeMetricsTest, ReproducesLibMoe) {
  const char* directory = std::getenv("MOETAP_REFERENCE_DIR");
  std::ifstream file(std::string(directory ? directory : "") + "/libmoe_golden.json");
  if (!directory || !file) GTEST_SKIP() << "no libmoe_golden.json in MOETAP_REFERENCE_DIR";
  const nlohmann::json golden = nlohmann::json::parse(file);
  ASSERT_EQ(golden.at("cases").size(), 27U);
  for (const auto& item : golden.at("cases")) {
    const auto router = item.at("router").get<std::string>(), dtype = item.at("dtype").get<std::string>();
    SCOPED_TRACE(router + " " + dtype + " E " + item.at("E").dump() + " B " + item.at("B").dump());
    const double tolerance = dtype == "float32" ? 2e-6 : dtype == "float16" ? 4e-3 : 2e-2;
    RouterCall call;
    call.logits = tokens_of(item.at("gate_logits"), at::kFloat);
    call.probabilities = tokens_of(item.at("gate_softmax"), at::kFloat);
    call.weights = tokens_of(item.at("weights"), at::kFloat);
    call.selected = tokens_of(item.at("selected_experts"), at::kLong);
    call.num_experts = call.logits.size(1);
    const Observed observed = observe_all_on(GetParam(), call, TokenRows{{}, item.at("B").get<int64_t>()});
    const LibMoeMetrics m = finalize_libmoe(observed.sums);
    const nlohmann::json& expected = item.at("layer_metrics");
    expect_close("entropy_weight_topk", expected, m.entropy_weight_topk, tolerance);
    expect_close("entropy_weight_all", expected, m.entropy_weight_all, tolerance);
    EXPECT_EQ(m.dist_experts_top1.value(), expected.at("dist_experts_top1").get<Counts>());
    EXPECT_EQ(m.dist_experts_top2, expected.at("dist_experts_top2").get<Counts>());
    // These routers overwrite the values with their own.
    if (router != "smoe_tcmoe" && router != "smoe_plus_plus") {
      expect_close("balance_loss", expected, m.balance_loss, tolerance);
    }
    if (router != "smoe_plus_plus") expect_close("router_z_loss", expected, m.router_z_loss, tolerance);

    const auto margins = expected.at("router_magine").get<std::vector<double>>();
    const at::Tensor& actual = observed.outputs.margins;
    for (size_t n = 0; n < margins.size(); ++n) {
      EXPECT_NEAR(actual[static_cast<int64_t>(n)].item<float>(), margins[n], tolerance) << "router_magine " << n;
    }
  }
}

}  // namespace
}  // namespace moetap::analysis
