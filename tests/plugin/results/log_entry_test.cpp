#include "plugin/results/log_entry.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "analysis/attention/attention_metrics.h"
#include "tests/plugin/results/log_values.h"
#include "tests/plugin/support/synthetic_attention.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

double entropy(const at::Tensor& rows) {
  const at::Tensor p = rows.to(at::kDouble) / rows.to(at::kDouble).sum(-1, true);
  return -(p * (p + 1e-9).log()).sum(-1).mean().item<double>();
}

TEST(LogEntryTest, ARowIsAnEntryOverItsValidTokens) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  const at::Tensor logits = random_logits(1, {2, 3, 4});
  const at::Tensor valid = at::tensor({1, 1, 1, 1, 1, 0}).reshape({2, 3}).to(at::kBool);
  ForwardRecord record = forward_of(model, {0, 1}, 4.0);
  record.routers = {observe_router({.hook = 0}, logits, valid), observe_router({.hook = 1}, logits.neg(), valid)};
  SyntheticRun run;
  run.write(model, {record});

  const json log = run.log();
  EXPECT_EQ(log.at("model_configs").at("task"), "log_metrics");
  EXPECT_EQ(log.at("time").get<std::string>().size(), 9u);
  ASSERT_EQ(log.at("logs").size(), 2u);
  const json& entry = log.at("logs").at(1);
  EXPECT_EQ(entry.at("doc_id"), 1);
  EXPECT_EQ(entry.at("target"), "");
  EXPECT_EQ(entry.at("doc"), json::object());
  EXPECT_EQ(vision(entry).at("time_inference"), 2.0);
  EXPECT_NE(read_text_file(run.path("log_metrics.json")).find("\"time_inference\":2.0"), std::string::npos);
  EXPECT_EQ(vision(entry).at("mm_projector"), json::object());

  const at::Tensor tokens = logits[1].narrow(0, 0, 2);
  const auto [weights, ids] = at::softmax(tokens, -1).topk(2, -1);
  const json layer = vision(entry).at("0");
  EXPECT_NEAR(layer.at("entropy_weight_all").get<double>(), entropy(at::softmax(tokens, -1)), 2e-6);
  EXPECT_NEAR(layer.at("entropy_weight_topk").get<double>(), entropy(weights), 2e-6);
  EXPECT_NEAR(layer.at("router_z_loss").get<double>(), at::logsumexp(tokens, -1).pow(2).mean().item<double>(), 1e-5);
  EXPECT_EQ(layer.at("selected_experts").get<std::vector<int64_t>>(),
            std::vector<int64_t>(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel()));
  ASSERT_EQ(layer.at("router_magine").size(), 2u);
  const at::Tensor normalized = weights / weights.sum(-1, true);
  EXPECT_NEAR(layer.at("router_magine").at(1).get<double>(), (normalized[1][0] - normalized[1][1]).item<double>(),
              1e-6);
  std::vector<int64_t> first(4);
  for (int64_t token = 0; token < 2; ++token) ++first[static_cast<size_t>(ids[token][0].item<int64_t>())];
  EXPECT_EQ(layer.at("dist_experts_top1").get<std::vector<int64_t>>(), first);
  const auto selections = layer.at("dist_experts_top2").get<std::vector<int64_t>>();
  EXPECT_EQ(std::accumulate(selections.begin(), selections.end(), int64_t{0}), 4);

  const json means = entry.at("logs_metrics_mlp").at(0).at(0);
  EXPECT_NEAR(means.at("balance_loss").get<double>(),
              (layer.at("balance_loss").get<double>() + vision(entry).at("1").at("balance_loss").get<double>()) / 2,
              1e-12);
  EXPECT_EQ(entry.at("logs_metrics_moe").at("language_model").at("0"), layer);
}

TEST(LogEntryTest, TheGuidesLayoutIsOneList) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, random_logits(4, {1, 2, 4}))};
  Config config;
  config.libmoe_guide_layout = true;
  SyntheticRun run(config);
  run.write(model, {record});
  EXPECT_TRUE(run.log().at("logs").at(0).at("logs_metrics_vision").at(0).contains("0"));
}

TEST(LogEntryTest, WithoutPerTokenListsTheMetricsStay) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, random_logits(5, {1, 2, 4}))};
  Config config;
  config.log_per_token = false;
  SyntheticRun run(config);
  run.write(model, {record});
  const json layer = vision(run.log().at("logs").at(0)).at("0");
  EXPECT_FALSE(layer.contains("selected_experts"));
  EXPECT_FALSE(layer.contains("router_magine"));
  EXPECT_TRUE(layer.contains("entropy_weight_topk"));
}

TEST(LogEntryTest, OneSlotHasNoMargin) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0, .top_k = 1}, random_logits(6, {1, 2, 4}))};
  SyntheticRun run;
  run.write(model, {record});
  EXPECT_FALSE(vision(run.log().at("logs").at(0)).at("0").contains("router_magine"));
  EXPECT_EQ(vision(run.log().at("logs").at(0)).at("0").at("selected_experts").size(), 2u);
}

TEST(LogEntryTest, WhatIsNotFiniteIsLeftOutAndCounted) {
  const auto model = describe({{"language_model", "0"}});
  at::Tensor logits = random_logits(7, {1, 2, 4});
  logits[0][0][1] = std::numeric_limits<float>::infinity();
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, logits)};
  record.custom[{"", "0"}] = {{"mine", std::nan("")}, {"fine", 1.5}};
  SyntheticRun run;
  run.write(model, {record});
  const json layer = vision(run.log().at("logs").at(0)).at("0");
  EXPECT_FALSE(layer.contains("router_z_loss"));
  EXPECT_FALSE(layer.contains("mine"));
  EXPECT_EQ(layer.at("fine"), 1.5);
  EXPECT_GE(run.manifest().at("counters").at("not_finite").get<int64_t>(), 2);
  const std::string text =
      read_text_file(run.path("log_metrics.json")) + read_text_file(run.path("moetap/summary.json"));
  EXPECT_EQ(text.find("NaN"), std::string::npos);
  EXPECT_EQ(text.find("Infinity"), std::string::npos);
}

TEST(LogEntryTest, ValuesOfTheModelAreCopiedUnlessTheyHideAKey) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0, 1});
  record.routers = {observe_router({.hook = 0}, random_logits(8, {2, 2, 4}))};
  record.custom[{"language_model", "0"}] = {{"flag", true}, {"number", int64_t{3}}, {"diver_loss", 0.25}};
  record.custom[{"", "0"}] = {{"my_selected_experts", int64_t{1}}, {"balance_loss", 0.0}};
  record.custom[{"", "9"}] = {{"nowhere", int64_t{1}}};
  ForwardRecord later = forward_of(model, {1}, 0);
  later.values_only = true;
  later.custom[{"", "0"}] = {{"number", int64_t{4}}};
  SyntheticRun run;
  run.write(model, {record, later});
  const json logs = run.log().at("logs");
  const json layer = vision(logs.at(0)).at("0");
  EXPECT_EQ(layer.at("flag"), true);
  EXPECT_EQ(layer.at("number"), 3);
  EXPECT_EQ(layer.at("diver_loss"), 0.25);
  EXPECT_FALSE(layer.contains("my_selected_experts"));
  EXPECT_NE(layer.at("balance_loss"), 0.0);
  EXPECT_EQ(vision(logs.at(1)).at("0").at("number"), 4);
  EXPECT_EQ(vision(logs.at(1)).at("time_inference"), 0.25);
  EXPECT_FALSE(vision(logs.at(0)).contains("9"));
  EXPECT_EQ(run.manifest().at("notices").size(), 3u + 1);  // the fourth: LibMoE's readers want more layers
  EXPECT_EQ(run.summary().at("forwards"), 1);
}

TEST(LogEntryTest, ForwardsOfASampleAreMergedOrTheLastIsKept) {
  const auto model = describe({{"language_model", "0"}});
  const at::Tensor logits = random_logits(9, {1, 5, 4});
  std::vector<ForwardRecord> records;
  for (int64_t step = 0; step < 3; ++step) {
    ForwardRecord record = forward_of(model, {0}, 0.25);
    record.labelled = true;
    record.generation = step > 0;
    record.routers = {observe_router({.hook = 0}, step == 0 ? logits.narrow(1, 0, 3) : logits.narrow(1, 2 + step, 1))};
    records.push_back(record);
  }
  ForwardRecord whole = forward_of(model, {0}, 0.75);
  whole.routers = {observe_router({.hook = 0}, logits)};
  SyntheticRun merged;
  merged.write(model, records);
  SyntheticRun at_once;
  at_once.write(model, {whole});
  const json entries = merged.log().at("logs");
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(vision(entries.at(0)), vision(at_once.log().at("logs").at(0)));
  EXPECT_EQ(merged.summary().at("forwards"), 3);

  Config config;
  config.log_forwards = LogForwards::kLast;
  SyntheticRun last(config);
  last.write(model, records);
  const json layer = vision(last.log().at("logs").at(0)).at("0");
  EXPECT_EQ(layer.at("selected_experts").size(), 2u);
  EXPECT_EQ(vision(last.log().at("logs").at(0)).at("time_inference"), 0.25);
}

TEST(LogEntryTest, AWholeForwardRouterStandsInEachEntry) {
  const auto model = describe({{"vision_tower", "0"}});
  ForwardRecord record = forward_of(model, {0, 1});
  record.routers = {observe_router({.hook = 0, .attributed = false}, random_logits(20, {1, 6, 4}))};
  SyntheticRun run;
  run.write(model, {record});
  const json logs = run.log().at("logs");
  ASSERT_EQ(logs.size(), 2u);
  EXPECT_EQ(vision(logs.at(0)).at("0"), vision(logs.at(1)).at("0"));
  EXPECT_EQ(vision(logs.at(0)).at("0").at("selected_experts").size(), 12u);
  EXPECT_EQ(run.summary().at("components").at("vision_tower").at("0").at("tokens"), 6);
}

TEST(LogEntryTest, CallsOfALoopBecomeOneLayer) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  const at::Tensor logits = random_logits(21, {1, 6, 4});
  record.routers = {observe_router({.hook = 0, .call = 0}, logits.narrow(1, 0, 4)),
                    observe_router({.hook = 0, .call = 1}, logits.narrow(1, 4, 2))};
  SyntheticRun run;
  run.write(model, {record});
  EXPECT_EQ(vision(run.log().at("logs").at(0)).at("0").at("selected_experts").size(), 12u);
}

TEST(LogEntryTest, AttentionIsBesideTheRoutersKeysNotAmongLibMoEs) {
  const auto model = describe({{"language_model", "1"}});
  add_attention_hooks(*model, {{"language_model", "0"}, {"language_model", "1"}, {"vision_tower", "0"}});
  const at::Tensor probabilities = seeded_probabilities(1, 2, 5);
  ForwardRecord record = forward_of(model, {0, 1});
  record.routers = {observe_router({.hook = 0}, random_logits(1, {2, 5, 4}))};
  record.custom[{"", "1"}] = {{"attention", 1.0}};  // a name that is taken
  record.attention = {observe_attention({.hook = 1}, probabilities),
                      observe_attention({.hook = 2}, probabilities.flip(0)),
                      observe_attention({.hook = 3, .attributed = false}, probabilities)};
  Config config;
  config.attention = Attention::kStats;
  SyntheticRun run(config), without(config), off;
  run.write(model, {record});
  const json logs = run.log().at("logs");
  const auto of = [&](size_t entry, const char* component, const char* layer) {
    return logs.at(entry).at("logs_metrics_moe").at(component).at(layer).at("attention");
  };
  const auto alone = [&](int64_t sample) {
    return analysis::finalize(observe_attention({}, probabilities.narrow(0, sample, 1)).sums);
  };
  for (const int64_t sample : {0, 1}) {
    const auto entry = static_cast<size_t>(sample);
    EXPECT_EQ(of(entry, "language_model", "0").at("entropy").get<double>(), alone(sample).entropy.value());
    EXPECT_EQ(of(entry, "language_model", "1").at("entropy").get<double>(), alone(1 - sample).entropy.value());
    EXPECT_EQ(of(entry, "language_model", "0").size(), 5u);
  }
  EXPECT_EQ(of(0, "vision_tower", "0"), of(1, "vision_tower", "0")) << "its samples cannot be told apart";

  record.attention.clear();
  without.write(model, {record});
  EXPECT_EQ(vision(logs.at(0)), vision(without.log().at("logs").at(0)));
  EXPECT_EQ(logs.at(0).at("logs_metrics_mlp"), without.log().at("logs").at(0).at("logs_metrics_mlp"));
  EXPECT_FALSE(vision(without.log().at("logs").at(0)).at("1").contains("attention"));
  EXPECT_TRUE(run.manifest().at("notices").contains(
      "the logged value \"attention\" is left out of the log: moetap measures it itself"));
  // Where no attention is recorded the name is free.
  off.write(model, {record});
  EXPECT_EQ(vision(off.log().at("logs").at(0)).at("1").at("attention"), 1.0);
}

TEST(LogEntryTest, OfSeveralForwardsAttentionIsMergedOrThatOfTheLast) {
  const auto model = describe({{"language_model", "0"}});
  add_attention_hooks(*model, {{"language_model", "0"}});
  std::vector<ForwardRecord> records;
  for (const int64_t seed : {1, 2}) {
    records.push_back(forward_of(model, {0}));
    records.back().routers = {observe_router({.hook = 0}, random_logits(seed, {1, 5, 4}))};
    records.back().attention = {observe_attention({.hook = 1}, seeded_probabilities(seed, 1, 5))};
  }
  analysis::AttentionSums both = records[0].attention[0].sums;
  merge(both, records[1].attention[0].sums);
  for (const LogForwards forwards : {LogForwards::kMerged, LogForwards::kLast}) {
    Config config;
    config.log_forwards = forwards;
    SyntheticRun run(config);
    run.write(model, records);
    const json logged = run.log().at("logs").at(0).at("logs_metrics_moe").at("language_model").at("0").at("attention");
    const auto& sums = forwards == LogForwards::kMerged ? both : records[1].attention[0].sums;
    EXPECT_EQ(logged.at("distance").get<double>(), finalize(sums).distance.value());
  }
}

}  // namespace
}  // namespace moetap::plugin
