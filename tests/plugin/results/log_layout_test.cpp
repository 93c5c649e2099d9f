#include "plugin/results/log_layout.h"

#include <gtest/gtest.h>

#include "tests/plugin/results/log_values.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;

TEST(LogLayoutTest, OneComponentFillsTheLogAndTheProjectorStandsBeside) {
  const auto model = describe(
      {{"language_model", "3"}, {"vision_tower", "5"}, {"vision_tower", "2"}, {"mm_projector", "mm_projector"}});
  ForwardRecord record = forward_of(model, {0});
  for (int64_t hook = 0; hook < 4; ++hook) {
    record.routers.push_back(observe_router({.hook = hook}, random_logits(11 + hook, {1, 2, 4})));
  }
  const auto keys = [](const json& object) {
    std::vector<std::string> names;
    for (const auto& [name, value] : object.items()) names.push_back(name);
    return names;
  };
  SyntheticRun run;
  run.write(model, {record});
  const json entry = run.log().at("logs").at(0);
  EXPECT_EQ(keys(vision(entry)), (std::vector<std::string>{"2", "5", "mm_projector", "time_inference"}));
  EXPECT_TRUE(vision(entry).at("mm_projector").contains("entropy_weight_topk"));
  EXPECT_EQ(keys(entry.at("logs_metrics_moe")),
            (std::vector<std::string>{"language_model", "mm_projector", "vision_tower"}));

  Config renumbered;
  renumbered.renumber_layers = true;
  SyntheticRun second(renumbered);
  second.write(model, {record});
  EXPECT_EQ(vision(second.log().at("logs").at(0)).at("1"), vision(entry).at("5"));

  Config chosen;
  chosen.log_component = "language_model";
  SyntheticRun third(chosen);
  third.write(model, {record});
  EXPECT_EQ(keys(vision(third.log().at("logs").at(0))),
            (std::vector<std::string>{"3", "mm_projector", "time_inference"}));

  Config wrong;
  wrong.log_component = "audio_tower";
  SyntheticRun fourth(wrong);
  try {
    fourth.write(model, {record});
    FAIL() << "written";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(
        std::string(error.what()),
        "log_component \"audio_tower\" has no routers in this run; those with routers: language_model, mm_projector, "
        "vision_tower");
  }
}

TEST(LogLayoutTest, MissingLayersAreNamed) {
  std::vector<std::pair<std::string, std::string>> routers;
  for (int layer = 0; layer < 10; ++layer) routers.emplace_back("language_model", std::to_string(2 * layer));
  const auto model = describe(routers);
  LayerTable layers;
  for (const auto& hook : model->hooks) layers.place(*model, hook.id, 4);
  Config config;
  EXPECT_EQ(
      LogLayout(config, {layers, layers}).readers_notice(),
      "log_metrics.json has no layers 1, 3, 5, 7, 9: several of LibMoE's readers drop every sample without layers "
      "0 to 9 (renumber_layers numbers the MoE layers from 0)");
  config.renumber_layers = true;
  EXPECT_EQ(LogLayout(config, {layers, layers}).readers_notice(), "");
}

TEST(LogLayoutTest, ARunWithoutRoutersHasNoComponent) {
  const Config config;
  const LayerTable layers;
  const LogLayout layout(config, {layers, layers});
  EXPECT_EQ(layout.log_component(), "");
  EXPECT_TRUE(layout.keyed_layers().empty());
}

}  // namespace
}  // namespace moetap::plugin
