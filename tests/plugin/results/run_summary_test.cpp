#include "plugin/results/run_summary.h"

#include <gtest/gtest.h>

#include "analysis/routers/router_metrics.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

TEST(RunSummaryTest, TheSummaryIsThatOfAllTokensHoweverTheyWereCut) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  std::vector<ForwardRecord> whole = {two_layers(model, 1, {0, 1, 2})};
  std::vector<ForwardRecord> parts;
  const at::Tensor a = seeded_logits(1, {3, 3, 4});
  const at::Tensor b = seeded_logits(1001, {3, 3, 4});
  for (int64_t i = 0; i < 3; ++i) {
    ForwardRecord record = forward_of(model, {i});
    record.routers = {observe_router({.hook = 0}, a.narrow(0, i, 1)), observe_router({.hook = 1}, b.narrow(0, i, 1))};
    record.transitions = {
        {0, 1,
         analysis::observe_transition(record.routers[0].selected.select(1, 0).contiguous(),
                                      record.routers[1].selected.select(1, 0).contiguous(), {}, 4, 4)}};
    parts.push_back(record);
  }
  SyntheticRun at_once;
  at_once.write(model, whole);
  SyntheticRun cut;
  cut.write(model, {parts[2], parts[0], parts[1]});
  EXPECT_EQ(cut.summary().at("components"), at_once.summary().at("components"));

  const json layer = at_once.summary().at("components").at("language_model").at("0");
  const analysis::RouterMetrics metrics = finalize(sum_rows(whole[0].routers[0].sums));
  EXPECT_EQ(layer.at("tokens"), 9);
  EXPECT_EQ(layer.at("num_experts"), 4);
  EXPECT_EQ(layer.at("top_k"), 2);
  EXPECT_EQ(layer.at("name"), "language_model.layers.0.gate");
  EXPECT_EQ(layer.at("selected_count").get<std::vector<int64_t>>(), metrics.selected_count);
  EXPECT_EQ(layer.at("entropy_all").get<double>(), *metrics.entropy_all);
  EXPECT_EQ(layer.at("coactivation").at(1).at(1), metrics.selected_count[1]);
  int64_t transitions = 0;
  for (const json& row : layer.at("transition")) {
    for (const json& count : row) transitions += count.get<int64_t>();
  }
  EXPECT_EQ(transitions, 9);
  EXPECT_TRUE(at_once.summary().at("components").at("language_model").at("1").at("transition").is_null());
  EXPECT_EQ(at_once.summary().at("attention"), json::object());
}

TEST(RunSummaryTest, OneSlotSelectsNoPairs) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0, .top_k = 1}, seeded_logits(1, {1, 5, 4}))};
  SyntheticRun run;
  run.write(model, {record});
  const json layer = run.summary().at("components").at("language_model").at("0");
  for (size_t e = 0; e < 4; ++e) {
    for (size_t f = 0; f < 4; ++f) {
      EXPECT_EQ(layer.at("coactivation").at(e).at(f), e == f ? layer.at("selected_count").at(e) : json(0));
    }
  }
}

TEST(RunSummaryTest, ANumberOfSlotsThatChangesStillMerges) {
  const auto model = describe({{"language_model", "0"}});
  ForwardRecord one = forward_of(model, {0});
  one.routers = {observe_router({.hook = 0, .top_k = 1}, seeded_logits(1, {1, 5, 4}))};
  ForwardRecord two = forward_of(model, {1});
  two.routers = {observe_router({.hook = 0, .top_k = 2}, seeded_logits(2, {1, 5, 4}))};
  SyntheticRun run;
  run.write(model, {one, two});
  const json layer = run.summary().at("components").at("language_model").at("0");
  EXPECT_EQ(layer.at("tokens"), 10);
  EXPECT_EQ(layer.at("top_k"), 2);
}

TEST(RunSummaryTest, ALayerThatNeverRanIsThereWithoutTokens) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 5, 4}))};
  SyntheticRun run;
  run.write(model, {record});
  const json silent = run.summary().at("components").at("language_model").at("1");
  EXPECT_EQ(silent.at("tokens"), 0);
  EXPECT_EQ(silent.at("selected_count"), json::parse("[0,0,0,0]"));
  EXPECT_TRUE(silent.at("entropy_all").is_null());
  EXPECT_TRUE(run.manifest().at("hooks").at(1).at("run_layer").is_null());
}

/// Two routers, each with an attention layer before it; layer 2 has attention alone.
std::shared_ptr<ModelDescription> attention_model() {
  auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  add_attention_hooks(*model, {{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  return model;
}

ForwardRecord with_attention(const std::shared_ptr<ModelDescription>& model, std::vector<int64_t> samples,
                             const at::Tensor& logits, const at::Tensor& probabilities, bool as_rows = false) {
  ForwardRecord record = forward_of(model, std::move(samples));
  record.routers = {observe_router({.hook = 0}, logits), observe_router({.hook = 1}, logits.neg())};
  record.attention = {observe_attention({.hook = 2, .as_rows = as_rows}, probabilities, &record.routers[0]),
                      observe_attention({.hook = 3, .as_rows = as_rows}, probabilities.flip(1), &record.routers[1])};
  return record;
}

TEST(RunSummaryTest, AttentionIsThatOfAllRowsHoweverTheyWereCut) {
  const auto model = attention_model();
  const at::Tensor logits = seeded_logits(1, {3, 6, 4}), probabilities = seeded_probabilities(2, 3, 6);
  Config config;
  config.attention = Attention::kStats;
  SyntheticRun at_once(config), cut(config);
  at_once.write(model, {with_attention(model, {0, 1, 2}, logits, probabilities)});
  std::vector<ForwardRecord> parts;
  for (const int64_t i : {2, 0, 1}) {
    // What experts attend to is recorded in either form: the numbers are the same to the last bit.
    parts.push_back(
        with_attention(model, {i}, logits.narrow(0, i, 1), probabilities.narrow(0, i, 1), /*as_rows=*/i != 0));
  }
  cut.write(model, parts);
  const json attention = at_once.summary().at("attention").at("language_model");
  EXPECT_EQ(cut.summary().at("attention"), at_once.summary().at("attention"));
  EXPECT_EQ(attention.at("0").at("rows"), 18);
  EXPECT_EQ(attention.at("0").at("experts").at("router"), "language_model.layers.0.gate");
  EXPECT_EQ(attention.at("1").at("experts").at("router"), "language_model.layers.1.gate");
  EXPECT_EQ(attention.at("0").at("head_entropy").at(0), attention.at("1").at("head_entropy").at(1));
  EXPECT_NE(attention.at("0").at("experts").at("gate_mass"), attention.at("1").at("experts").at("gate_mass"));
  EXPECT_EQ(attention.at("2").at("rows"), 0) << "it never ran";
  EXPECT_FALSE(at_once.summary().contains("phases"));
}

TEST(RunSummaryTest, AttentionOfPromptsAndGenerationIsKeptApart) {
  const auto model = attention_model();
  ForwardRecord prompt = with_attention(model, {0}, seeded_logits(1, {1, 6, 4}), seeded_probabilities(1, 1, 6));
  ForwardRecord step = with_attention(model, {0}, seeded_logits(2, {1, 2, 4}), seeded_probabilities(2, 1, 2));
  step.generation = true;
  SyntheticRun run;
  run.write(model, {prompt, step});
  const auto rows = [](const json& of) { return of.at("attention").at("language_model").at("0").at("rows"); };
  EXPECT_EQ(rows(run.summary()), 8);
  EXPECT_EQ(rows(run.summary().at("phases").at("prompt")), 6);
  EXPECT_EQ(rows(run.summary().at("phases").at("generation")), 2);
  EXPECT_EQ(run.summary()
                .at("phases")
                .at("generation")
                .at("attention")
                .at("language_model")
                .at("0")
                .at("experts")
                .at("flow_weight")
                .size(),
            4u);
}

}  // namespace
}  // namespace moetap::plugin
