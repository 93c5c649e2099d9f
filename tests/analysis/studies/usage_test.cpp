#include "analysis/studies/usage.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "analysis/studies/load_metrics.h"
#include "analysis/studies/usage_comparison.h"
#include "tests/analysis/studies/routing_tokens.h"

namespace moetap::analysis::studies {
namespace {

using Ids = std::vector<int64_t>;
using Reals = std::vector<double>;
using Names = std::vector<std::string>;

Result result_of(const RoutingTokens& tokens, const std::string& range = "", const std::string& phase = "") {
  StudyOptions options;
  options.token_range = range;
  options.phase = phase;
  return analyse(*make_usage(tokens.shape(), options), tokens);
}

TEST(LoadMetrics, FollowTheirDefinitions) {
  const Ids counts = {6, 2, 0, 0};  // mean 2, deviations 4, 0, -2, -2
  const LoadMetrics metrics = load_metrics(counts);
  EXPECT_DOUBLE_EQ(metrics.load_cv, std::sqrt(24.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(metrics.max_violation, 2);
  EXPECT_DOUBLE_EQ(metrics.gini, (4 + 6 + 6 + 2 + 2) / (4.0 * 4 * 2));  // pairs' distances over E² mean
  EXPECT_DOUBLE_EQ(metrics.jain, 64 / (4.0 * 40));
  EXPECT_EQ(metrics.active_experts, 2);
  EXPECT_EQ(metrics.dead_experts, 2);
  EXPECT_EQ(metrics.underused_experts, 2);
  const LoadMetrics none = load_metrics(Ids{0, 0});
  EXPECT_EQ(none.load_cv, 0);
  EXPECT_TRUE(std::isnan(none.gini));
  EXPECT_EQ(load_metrics(Ids{5}).load_cv, 0);
}

TEST(Usage, CountsUses) {
  const RoutingTokens tokens = one_layer(3, {{0, 1}, {0, -1}, {0, 7}}, {{1, 0.5}, {1, 1}, {0, 1}});
  const Result result = result_of(tokens);
  const Table &usage = result.tables.at(0), &balance = result.tables.at(1);
  EXPECT_EQ(column_names(usage), (Names{"component", "layer", "expert_id", "selected_count", "usage", "load_ratio"}));
  EXPECT_EQ(integers(usage, "selected_count"), (Ids{2, 1, 0}));
  EXPECT_EQ(reals(usage, "usage"), (Reals{2.0 / 3, 1.0 / 3, 0}));
  EXPECT_EQ(reals(usage, "load_ratio"), (Reals{2, 1, 0}));
  EXPECT_EQ(balance.name(), "load_balance");
  EXPECT_EQ(column_names(balance), (Names{"component", "layer", "tokens", "load_cv", "max_violation", "gini", "jain",
                                          "active_experts", "dead_experts", "underused_experts"}));
  EXPECT_EQ(integers(balance, "tokens"), Ids{3});
  EXPECT_EQ(integers(balance, "dead_experts"), Ids{1});
  EXPECT_EQ(result.sentence,
            "layer 0 sends 67 % of its load to expert 0 (uniform: 33 %), the largest share of all layers; 1 expert is "
            "never used by 3 tokens");
}

TEST(Usage, TakesSlicesAsPython) {
  const RoutingTokens tokens = one_layer(5, {{0}, {1}, {2}, {3}, {4}});
  const auto counts = [&](const char* range) {
    return integers(result_of(tokens, range).tables.at(0), "selected_count");
  };
  EXPECT_EQ(counts("1:3"), (Ids{0, 1, 1, 0, 0}));
  EXPECT_EQ(counts(":2"), (Ids{1, 1, 0, 0, 0}));
  EXPECT_EQ(counts("3:99"), (Ids{0, 0, 0, 1, 1}));
  EXPECT_EQ(counts("-2:"), (Ids{0, 0, 0, 1, 1}));
  EXPECT_EQ(counts("-99:-3"), (Ids{1, 1, 0, 0, 0}));
  EXPECT_EQ(counts("3:1"), (Ids{0, 0, 0, 0, 0}));
  EXPECT_TRUE(std::isnan(reals(result_of(tokens, "3:1").tables.at(0), "usage")[0]));
  for (const char* range : {"3", "a:b", "1:2:3", "1.5:2"}) EXPECT_THROW(counts(range), std::runtime_error) << range;
}

TEST(Usage, TakesAPhaseAndASliceOfIt) {
  RoutingTokens tokens = one_layer(4, {{0}, {1}, {2}, {3}});
  tokens.phase = {0, 1, 0, 1};
  EXPECT_EQ(integers(result_of(tokens, "", "generation").tables.at(0), "selected_count"), (Ids{0, 1, 0, 1}));
  EXPECT_EQ(integers(result_of(tokens, "1:", "generation").tables.at(0), "selected_count"), (Ids{0, 0, 0, 1}));
  EXPECT_EQ(integers(result_of(tokens, "-1:", "prompt").tables.at(0), "selected_count"), (Ids{0, 0, 1, 0}));
  EXPECT_EQ(integers(result_of(tokens, "-1:", "prompt").tables.at(1), "tokens"), Ids{1});
  StudyOptions options;
  options.token_range = "1:";
  options.phase = "generation";
  EXPECT_TRUE(make_usage(tokens.shape(), options)->is_sequential());
  EXPECT_THROW(result_of(tokens, "", "decode"), std::runtime_error);
}

TEST(Usage, CountsPlacesWithoutThePaddingOfTheNotebook) {
  const RoutingTokens tokens = one_layer(5, {{0}, {1}, {4}, {2}, {3}});
  const std::vector<uint8_t> valid = {1, 1, 0, 1, 1};
  const auto counts = [&](const char* range) {
    StudyOptions options;
    options.definitions = Definitions::kNotebook;
    options.token_range = range;
    const auto study = make_usage(tokens.shape(), options);
    EXPECT_TRUE(study->is_sequential());
    for (int pass = 0; pass < study->num_passes(); ++pass) {
      if (pass > 0) study->begin_pass(pass);
      TokenBatch batch = tokens.all();
      batch.valid = valid;
      study->observe(batch);
    }
    return integers(study->finalize().tables.at(0), "selected_count");
  };
  EXPECT_EQ(counts("2:3"), (Ids{0, 0, 1, 0, 0}));
  EXPECT_EQ(counts("-2:"), (Ids{0, 0, 1, 1, 0}));
  EXPECT_EQ(counts(":-1"), (Ids{1, 1, 1, 0, 0}));
}

TEST(Usage, ComparesPromptAndGeneration) {
  RoutingTokens tokens = one_layer(3, {{0}, {0}, {1}, {0}});
  EXPECT_EQ(result_of(tokens).tables.size(), 2U);  // one phase alone
  tokens.phase = {0, 0, 1, 1};
  const Table table = result_of(tokens).tables.at(2);
  EXPECT_EQ(column_names(table), (Names{"layer", "expert_id", "a", "b", "diff", "specialization", "dominant"}));
  EXPECT_EQ(reals(table, "a"), (Reals{1, 0, 0}));
  EXPECT_EQ(reals(table, "b"), (Reals{0.5, 0.5, 0}));
  EXPECT_EQ(reals(table, "diff"), (Reals{0.5, -0.5, 0}));
  EXPECT_EQ(reals(table, "specialization"), (Reals{0.5 / 1.5, 1, 0}));
  EXPECT_EQ(texts(table, "dominant"), (Names{"a", "b", ""}));
}

TEST(UsageComparison, ComparesTwoRuns) {
  RoutingTokens a = one_layer(2, {{0}, {1}, {1}}), b = one_layer(2, {{0}, {0}, {1}});
  a.layers[0].seen = {1, 1, 0};  // a token of one run alone counts for that run
  const auto study = make_usage_comparison({a.shape(), b.shape(), "fp32", "int4"}, {});
  study->observe(PairBatch{a.all(), b.all()});
  const Result result = study->finalize();
  EXPECT_EQ(reals(result.tables.at(0), "a"), (Reals{0.5, 0.5}));
  EXPECT_EQ(reals(result.tables.at(0), "b"), (Reals{2.0 / 3, 1.0 / 3}));
  EXPECT_EQ(texts(result.tables.at(0), "dominant"), (Names{"b", "a"}));
  EXPECT_NE(result.sentence.find("int4"), std::string::npos) << result.sentence;
}

TEST(Usage, IsTheSameForAnySplit) {
  std::mt19937 random(12);
  for (const char* range : {"", "20:70", "-40:-10"}) {
    const RoutingTokens tokens = random_tokens(random);
    StudyOptions options;
    options.token_range = range;
    expect_same_for_any_split([&] { return make_usage(tokens.shape(), options); }, tokens, Order::kTokens, random);
    expect_same_for_any_split(
        [&] {
          return make_usage_comparison({tokens.shape(), tokens.shape(), "a", "b"}, {});
        },
        tokens, tokens, random);
  }
}

}  // namespace
}  // namespace moetap::analysis::studies
