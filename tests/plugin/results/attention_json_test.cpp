#include "plugin/results/attention_json.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "analysis/attention/attention_metrics.h"
#include "tests/plugin/support/synthetic_attention.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kBatch = 2, kLength = 9;

std::vector<std::string> keys_of(const ordered_json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  return keys;
}

class AttentionJsonTest : public testing::Test {
 protected:
  AttentionJsonTest() {
    layer_.name = "layers.0.attn";
    layer_.implementation = "sdpa";
    const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
    for (const int64_t hook : {0, 1}) routers_.place(*model, hook, 4);
  }

  ordered_json json(const AttentionTotal* total, const std::vector<const ExpertAttentionTotal*>& experts = {}) const {
    return attention_json(layer_, total, experts, routers_, regions_);
  }

  static AttentionRecord record(const RouterRecord* router = nullptr) {
    return observe_attention({}, seeded_probabilities(1, kBatch, kLength), router);
  }

  RunLayer layer_;
  LayerTable routers_;
  AttentionRegions regions_;
};

TEST_F(AttentionJsonTest, KeysAreTheLayersThenTheTable) {
  std::vector<std::string> expected = {"name", "implementation", "num_heads", "num_key_heads", "regions"};
  for (const analysis::AttentionMetric& metric : analysis::kAttentionMetrics) {
    if (metric.condition != analysis::AttentionCondition::kSampled) expected.emplace_back(metric.name);
  }
  const AttentionTotal total{0, 1, sum_rows(record().sums)};
  EXPECT_EQ(keys_of(json(&total)), expected);
  EXPECT_EQ(keys_of(json(nullptr)), expected);
}

TEST_F(AttentionJsonTest, ValuesAreThoseOfTheMetrics) {
  const AttentionTotal total{0, 1, sum_rows(record().sums)};
  const analysis::AttentionMetrics metrics = finalize(total.sums);
  const ordered_json json = this->json(&total);
  EXPECT_EQ(json.at("name"), "layers.0.attn");
  EXPECT_EQ(json.at("implementation"), "sdpa");
  EXPECT_EQ(json.at("num_heads"), kAttentionHeads);
  EXPECT_EQ(json.at("num_key_heads"), 1);
  EXPECT_EQ(json.at("regions"), ordered_json({"part 0", "part 1", "part 2", "part 3", "part 4"}));
  EXPECT_EQ(json.at("rows"), kBatch * kLength);
  EXPECT_EQ(json.at("empty_rows"), 0);
  EXPECT_EQ(json.at("entropy").get<double>(), metrics.entropy.value());
  EXPECT_EQ(json.at("self").get<double>(), metrics.self_weight.value());
  EXPECT_EQ(json.at("region_mass").get<std::vector<double>>(), metrics.region_mass.value());
  ASSERT_EQ(json.at("flow").size(), 5u);
  for (size_t from = 0; from < 5; ++from) {
    ASSERT_EQ(json.at("flow").at(from).size(), 5u);
    for (size_t to = 0; to < 5; ++to) {
      EXPECT_EQ(json.at("flow").at(from).at(to).get<double>(), metrics.flow[from * 5 + to].value());
    }
  }
  EXPECT_EQ(keys_of(json.at("specialization")),
            (std::vector<std::string>{"diagonal", "far", "n_terminal", "c_terminal", "n_to_c", "c_to_n"}));
  EXPECT_EQ(json.at("specialization").at("c_to_n").get<double>(), metrics.specialization[5].value());
  EXPECT_EQ(json.at("specialization").at("n_to_c").get<double>(), 0) << "causal";
  for (const char* name : {"head_entropy", "head_distance", "head_first", "head_max_logit"}) {
    EXPECT_EQ(json.at(name).size(), size_t{kAttentionHeads}) << name;
  }
  EXPECT_EQ(json.at("head_entropy").at(1).get<double>(), metrics.head_entropy[1].value());
  EXPECT_NEAR(json.at("head_max_logit").at(0).get<double>(), 0, 1e-6) << "the first query sees itself alone";
}

TEST_F(AttentionJsonTest, ALayerThatNeverRanHasNoNumbers) {
  const ordered_json json = this->json(nullptr);
  EXPECT_EQ(json.at("rows"), 0);
  for (const char* name : {"num_heads", "num_key_heads", "entropy", "self", "received", "region_mass", "flow",
                           "specialization", "head_entropy", "head_max_logit"}) {
    EXPECT_TRUE(json.at(name).is_null()) << name;
  }
  EXPECT_EQ(json.at("regions").size(), 5u);
}

TEST_F(AttentionJsonTest, ExpertsAreAnObjectOrAListOfThem) {
  const RouterRecord router = observe_router({}, seeded_logits(1, {kBatch, kLength, 4}));
  const AttentionTotal total{0, 1, sum_rows(record().sums)};
  const ExpertAttentionTotal experts{0, 1, record(&router).experts.at(0).sums};
  const analysis::AttentionExpertMetrics metrics = finalize_experts(experts.sums);
  EXPECT_FALSE(json(&total).contains("experts"));
  const ordered_json one = json(&total, {&experts}).at("experts");
  std::vector<std::string> expected = {"router"};
  for (const auto& metric : analysis::kAttentionExpertMetrics) expected.emplace_back(metric.name);
  EXPECT_EQ(keys_of(one), expected);
  EXPECT_EQ(one.at("router"), "language_model.layers.1.gate");
  EXPECT_EQ(one.at("gate_mass").get<std::vector<double>>(), metrics.gate_mass);
  EXPECT_EQ(one.at("mean_distance").at(2).get<double>(), metrics.mean_distance[2].value());
  EXPECT_EQ(one.at("flow").at(3).at(4).at(1).get<double>(), metrics.flow[(3 * 5 + 4) * 5 + 1]);
  EXPECT_EQ(one.at("flow_weight").at(3).at(4).get<double>(), metrics.flow_weight[3 * 5 + 4]);
  EXPECT_EQ(one.at("specialization").at(3).size(), 6u);
  EXPECT_EQ(one.at("pattern").at(2).at(15).at(3).get<double>(), metrics.pattern[(2 * 16 + 15) * 16 + 3]);
  EXPECT_EQ(one.at("pattern").size(), 4u);
  EXPECT_EQ(one.at("unassigned_slots"), 0);

  const ExpertAttentionTotal other{0, 0, experts.sums};
  const ordered_json two = json(&total, {&other, &experts}).at("experts");
  ASSERT_TRUE(two.is_array());
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two.at(0).at("router"), "language_model.layers.0.gate");
  EXPECT_EQ(two.at(1), one);
}

TEST_F(AttentionJsonTest, CrossAttentionHasNoSelfAndSampledRowsHaveErrors) {
  analysis::AttentionCall call;
  call.probabilities = seeded_probabilities(1, kBatch, kLength);
  analysis::AttentionTokens tokens;
  tokens.query_position = tokens.key_position = at::arange(kLength, at::kInt).expand({kBatch, kLength}).contiguous();
  tokens.self = false;
  const auto total_of = [&] {
    const auto rows = measure_attention(call, tokens);
    AttentionTotal total{0, 2, analysis::empty_attention_sums(kAttentionHeads, 5, tokens.self, 0, 1)};
    add_rows(total.sums, rows, at::zeros({kBatch}, at::kLong));
    return total;
  };
  const AttentionTotal cross = total_of();
  EXPECT_FALSE(json(&cross).contains("self"));
  EXPECT_FALSE(json(&cross).contains("received"));
  EXPECT_TRUE(json(&cross).at("head_max_logit").at(0).is_null()) << "no scores were reported";
  tokens.self = true;
  tokens.sampled = at::arange(kLength).remainder(2).eq(0).expand({kBatch, kLength}).contiguous();
  const AttentionTotal sampled = total_of();
  const ordered_json json = this->json(&sampled);
  EXPECT_EQ(json.at("rows"), 5 * kBatch);
  EXPECT_EQ(json.at("not_sampled_rows"), 4 * kBatch);
  ASSERT_TRUE(json.at("standard_error").is_object());
  EXPECT_EQ(keys_of(json.at("standard_error")).front(), "entropy");
  EXPECT_EQ(json.at("standard_error").size(), 17u);
  EXPECT_GT(json.at("standard_error").at("distance").get<double>(), 0);
}

TEST_F(AttentionJsonTest, TheLogHasFiveOfThem) {
  const AttentionRecord attention = record();
  const analysis::AttentionSums row = select_row(attention.sums, 1);
  const ordered_json logged = logged_attention_json(row);
  EXPECT_EQ(keys_of(logged), (std::vector<std::string>{"entropy", "max_weight", "distance", "first", "region_mass"}));
  const analysis::AttentionMetrics metrics = finalize(row);
  EXPECT_EQ(logged.at("distance").get<double>(), metrics.distance.value());
  EXPECT_EQ(logged.at("region_mass").get<std::vector<double>>(), metrics.region_mass.value());
  EXPECT_EQ(logged_attention_json({}), ordered_json::object());
}

}  // namespace
}  // namespace moetap::plugin
