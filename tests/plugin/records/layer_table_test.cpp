#include "plugin/records/layer_table.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace moetap::plugin {
namespace {

constexpr int64_t kExperts = 4;

struct Router {
  std::string layer;
  std::string name;
  std::string method = "forward";
  std::string component = "language_model";
};

ModelDescription model_of(const std::string& identity, const std::vector<Router>& routers,
                          const std::string& instance = "") {
  ModelDescription model;
  model.identity = identity;
  model.instance = instance.empty() ? "instance of " + identity : instance;
  for (const Router& router : routers) {
    hooks::HookPoint hook;
    hook.id = static_cast<int64_t>(model.hooks.size());
    hook.kind = hooks::HookKind::kRouter;
    hook.layer = router.layer;
    hook.name = router.name;
    hook.method = router.method;
    hook.component = router.component;
    model.hooks.push_back(hook);
  }
  return model;
}

std::vector<std::string> ids(const LayerTable& table) {
  std::vector<std::string> ids;
  for (const RunLayer& layer : table.layers()) ids.push_back(layer.layer);
  return ids;
}

using Ids = std::vector<std::string>;

TEST(LayerTableTest, AHookKeepsItsLayer) {
  const ModelDescription model = model_of("a", {{"0", "layers.0"}, {"1", "layers.1"}});
  LayerTable table;
  EXPECT_FALSE(table.find(model.instance, 1).has_value());
  EXPECT_EQ(table.place(model, 1, kExperts), 0u);  // places are in the order of the first reports
  EXPECT_EQ(table.place(model, 0, kExperts), 1u);
  EXPECT_EQ(table.place(model, 1, kExperts), 0u);
  EXPECT_EQ(table.find(model.instance, 1), std::optional<size_t>(0));
  EXPECT_EQ(ids(table), (Ids{"1", "0"}));
  EXPECT_EQ(table.layers()[0].name, "layers.1");
  EXPECT_EQ(table.layers()[0].num_experts, kExperts);
  ASSERT_EQ(table.placements().size(), 2u);
  EXPECT_EQ(table.placements()[1].hook, 0);
  EXPECT_EQ(table.placements()[1].place, 1u);
}

TEST(LayerTableTest, TwinsAndMethodsShareALayer) {
  const std::vector<Router> routers = {{"0", "gate", "forward"}, {"0", "gate", "generate"}};
  LayerTable table;
  for (const std::string instance : {"first", "second"}) {
    const ModelDescription twin = model_of("a", routers, instance);
    EXPECT_EQ(table.place(twin, 0, kExperts), 0u);
    EXPECT_EQ(table.place(twin, 1, kExperts), 0u);
  }
  EXPECT_EQ(table.placements().size(), 4u);
}

TEST(LayerTableTest, RoutersThatDifferNeverShareALayer) {
  LayerTable table;
  table.place(model_of("a", {{"0", "gate"}}), 0, kExperts);
  table.place(model_of("b", {{"0", "gate"}}), 0, kExperts);               // another model
  table.place(model_of("a", {{"0", "other"}}, "renamed"), 0, kExperts);   // another module
  table.place(model_of("a", {{"0", "gate"}}, "wider"), 0, kExperts + 1);  // another number of experts
  const ModelDescription twice = model_of("a", {{"0", "gate"}, {"0", "gate"}}, "twice");
  table.place(twice, 0, kExperts);
  table.place(twice, 1, kExperts);  // two hooks of one method
  EXPECT_EQ(ids(table), (Ids{"0", "1", "2", "3", "4"}));
  // Layer ids are unique within a component only.
  table.place(model_of("a", {{"0", "gate", "forward", "vision_tower"}}, "vision"), 0, kExperts);
  EXPECT_EQ(table.layers().back().layer, "0");
}

TEST(LayerTableTest, AnIdThatIsTakenBecomesTheNumberAboveTheLargest) {
  const auto expect_next = [](const std::string& largest, const std::string& next) {
    LayerTable table;
    table.place(model_of("a", {{"x", "gate"}}), 0, kExperts);
    table.place(model_of("b", {{largest, "gate"}}), 0, kExperts);
    table.place(model_of("c", {{"x", "gate"}}), 0, kExperts);
    EXPECT_EQ(ids(table), (Ids{"x", largest, next}));
  };
  expect_next("9", "10");
  expect_next("007", "8");
  expect_next("1999", "2000");
  expect_next("000", "1");
  expect_next("18446744073709551615", "18446744073709551616");
  expect_next("999999999999999999999999999999", "1000000000000000000000000000000");
  LayerTable names;
  names.place(model_of("a", {{"x", "gate"}}), 0, kExperts);
  names.place(model_of("b", {{"x", "gate"}}), 0, kExperts);
  EXPECT_EQ(ids(names), (Ids{"x", "0"}));
}

TEST(LayerTableTest, RoutersThatNeverReportedAreAdded) {
  ModelDescription model = model_of("a", {{"0", "a"}, {"1", "b"}, {"2", "c", "generate"}});
  model.hooks[1].num_experts = 6;
  LayerTable table;
  table.place(model, 0, kExperts);
  table.add_silent(model, "forward");
  table.add_silent(model, "forward");
  table.add_silent(model_of("a", {{"0", "a"}, {"1", "b"}}, "twin"), "forward");
  EXPECT_EQ(ids(table), (Ids{"0", "1"}));
  EXPECT_EQ(table.layers()[1].num_experts, 6);
  EXPECT_FALSE(table.find(model.instance, 1).has_value());
}

TEST(LayerTableTest, LayersOfAComponentComeByTheirIds) {
  LayerTable table;
  const ModelDescription model =
      model_of("a", {{"head", "a"}, {"10", "b"}, {"2", "c"}, {"0", "d", "forward", "vision_tower"}});
  for (int64_t hook = 0; hook < 4; ++hook) table.place(model, hook, kExperts);
  EXPECT_EQ(table.by_component(),
            (std::map<std::string, std::vector<size_t>>{{"language_model", {2, 1, 0}}, {"vision_tower", {3}}}));
}

TEST(LayerIds, NumbersComeByValueBeforeNames) {
  const Ids ordered = {"0", "1", "02", "2", "10", "18446744073709551616", "99999999999999999999", "a", "b"};
  for (size_t i = 0; i < ordered.size(); ++i) {
    for (size_t k = 0; k < ordered.size(); ++k) {
      EXPECT_EQ(layer_id_less(ordered[i], ordered[k]), i < k) << ordered[i] << " " << ordered[k];
    }
  }
}

TEST(LayerTableTest, LayersOfTwoKindsMayShareAnId) {
  ModelDescription model = model_of("a", {{"0", "layers.0.attn"}, {"0", "layers.0.gate"}, {"1", "layers.1.attn"}});
  for (const size_t hook : {0, 2}) {
    model.hooks[hook].kind = hooks::HookKind::kAttention;
    model.hooks[hook].implementation = "sdpa";
  }
  LayerTable routers, attention(hooks::HookKind::kAttention);
  EXPECT_EQ(routers.place(model, 1, kExperts), 0u);
  EXPECT_EQ(attention.place(model, 0, 0), 0u);
  routers.add_silent(model, "forward");
  attention.add_silent(model, "forward");
  EXPECT_EQ(ids(routers), (Ids{"0"}));
  EXPECT_EQ(ids(attention), (Ids{"0", "1"}));
  EXPECT_EQ(attention.layers()[1].name, "layers.1.attn");
  EXPECT_EQ(attention.layers()[0].implementation, "sdpa");
  EXPECT_FALSE(attention.find(model.instance, 2)) << "it never reported";
}

TEST(LayerTableTest, ALayerOfASecondModelHasOneNumberInBothTables) {
  // Layer 0 is dense: it has attention and no router.
  const auto with_attention = [](const std::string& name) {
    ModelDescription model = model_of(name, {{"0", "layers.0.attn"},
                                             {"1", "layers.1.attn"},
                                             {"1", "layers.1.gate"},
                                             {"2", "layers.2.attn"},
                                             {"2", "layers.2.gate"}});
    for (const size_t hook : {0, 1, 3}) model.hooks[hook].kind = hooks::HookKind::kAttention;
    return model;
  };
  const ModelDescription a = with_attention("a"), b = with_attention("b");
  for (const bool attention_first : {false, true}) {
    LayerTable routers, attention(hooks::HookKind::kAttention);
    const auto place_routers = [&](const ModelDescription& model) {
      for (const int64_t hook : {2, 4}) routers.place(model, hook, kExperts, &attention);
    };
    const auto place_attention = [&](const ModelDescription& model) {
      for (const int64_t hook : {0, 1, 3}) attention.place(model, hook, 0, &routers);
    };
    for (const ModelDescription& model : {a, b}) {
      if (attention_first) place_attention(model);
      place_routers(model);
      if (!attention_first) place_attention(model);
    }
    const auto number = [](const LayerTable& table, const ModelDescription& model, int64_t hook) {
      return table.layers()[table.at(model.instance, hook)].layer;
    };
    for (const ModelDescription& model : {a, b}) {
      EXPECT_EQ(number(attention, model, 1), number(routers, model, 2)) << model.identity << attention_first;
      EXPECT_EQ(number(attention, model, 3), number(routers, model, 4)) << model.identity << attention_first;
    }
    EXPECT_EQ(number(routers, a, 2), "1");
    Ids all = ids(attention);
    std::sort(all.begin(), all.end());
    EXPECT_EQ(std::unique(all.begin(), all.end()), all.end());
    EXPECT_EQ(all.size(), 6u);
  }
}

}  // namespace
}  // namespace moetap::plugin
