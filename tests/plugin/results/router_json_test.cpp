#include "plugin/results/router_json.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "analysis/routers/router_metrics.h"
#include "analysis/routers/router_sums.h"

namespace moetap::plugin {
namespace {

using nlohmann::ordered_json;

RunLayer layer_of(const std::string& scoring) {
  RunLayer layer;
  layer.name = "layers.0.gate";
  layer.num_experts = 3;
  layer.top_k = 2;
  layer.scoring = scoring;
  return layer;
}

analysis::RouterSums sums_of_three_tokens() {
  analysis::RouterCall call;
  call.num_experts = 3;
  call.selected = at::tensor({0, 1, 1, 2, 1, 0}, at::kLong).view({3, 2});
  call.weights = at::tensor({0.75, 0.25, 0.5, 0.5, 1.0, 0.0}).view({3, 2});
  return analysis::observe(call, {});
}

std::vector<std::string> keys_of(const ordered_json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  return keys;
}

TEST(RouterJsonTest, KeysAreTheLayersThenTheTables) {
  for (const std::string scoring : {"softmax", "sigmoid", "sigmoid + bias"}) {
    std::vector<std::string> expected = {"name", "num_experts", "top_k", "scoring"};
    for (const analysis::RouterMetric& metric : analysis::kRouterMetrics) {
      if (std::string(metric.name) != "score_entropy" || scoring != "softmax") expected.emplace_back(metric.name);
    }
    expected.emplace_back("transition");
    EXPECT_EQ(keys_of(router_json(layer_of(scoring), nullptr, nullptr)), expected) << scoring;
  }
}

TEST(RouterJsonTest, EachKindOfValue) {
  const analysis::RouterSums sums = sums_of_three_tokens();
  const analysis::TransitionSums transition{3, 2, at::arange(6, at::kLong).view({3, 2})};
  const ordered_json json = router_json(layer_of("softmax"), &sums, &transition);
  EXPECT_EQ(json.at("tokens"), 3);
  EXPECT_NEAR(json.at("load_cv").get<double>(), std::sqrt(4.0 / 3) / (5.0 / 3), 1e-15) << "c = 1, 3, 1";
  EXPECT_TRUE(json.at("entropy_all").is_null()) << "no logits";
  EXPECT_EQ(json.at("selected_count"), ordered_json::parse("[1, 3, 1]"));
  EXPECT_TRUE(json.at("mean_prob").is_null());
  EXPECT_EQ(json.at("mean_weight"), ordered_json::parse("[0.75, 0.5833333333333334, 0.5]")) << "of 0.25 + 0.5 + 1";
  EXPECT_EQ(json.at("coactivation"), ordered_json::parse("[[1, 1, 0], [1, 3, 1], [0, 1, 1]]"));
  EXPECT_EQ(json.at("transition"), ordered_json::parse("[[0, 1], [2, 3], [4, 5]]"));
}

TEST(RouterJsonTest, ARouterThatSawNoToken) {
  const ordered_json known = router_json(layer_of("softmax"), nullptr, nullptr);
  EXPECT_EQ(known.at("num_experts"), 3);
  EXPECT_EQ(known.at("selected_count"), ordered_json::parse("[0, 0, 0]"));
  EXPECT_EQ(known.at("mean_weight"), ordered_json::parse("[null, null, null]"));
  EXPECT_TRUE(known.at("usage").is_null());
  EXPECT_TRUE(known.at("transition").is_null());
  RunLayer unknown = layer_of("softmax");
  unknown.num_experts = 0;
  unknown.top_k.reset();
  const ordered_json json = router_json(unknown, nullptr, nullptr);
  EXPECT_TRUE(json.at("num_experts").is_null());
  EXPECT_TRUE(json.at("top_k").is_null());
  EXPECT_EQ(json.at("selected_count"), ordered_json::array());
  EXPECT_TRUE(json.at("coactivation").is_null());
}

}  // namespace
}  // namespace moetap::plugin
