#include "hooks/points/hook_names.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hooks/points/hook_spec.h"

namespace moetap::hooks {
namespace {

HookPoint site(const std::string& name, HookKind kind = HookKind::kRouter, const std::string& method = "forward") {
  HookPoint hook;
  hook.name = name;
  hook.kind = kind;
  hook.method = method;
  return hook;
}

struct Named {
  std::string name;
  std::string component;
  std::string layer;
};

bool operator==(const Named& a, const Named& b) {
  return a.name == b.name && a.component == b.component && a.layer == b.layer;
}

std::ostream& operator<<(std::ostream& stream, const Named& named) {
  return stream << "{" << named.name << ", " << named.component << ", " << named.layer << "}";
}

std::vector<Named> named(std::vector<HookPoint> hooks) {
  name_hooks(hooks);
  std::vector<Named> result;
  for (const HookPoint& hook : hooks) result.push_back({hook.name, hook.component, hook.layer});
  return result;
}

std::vector<Named> all_named(const std::vector<std::string>& names) {
  std::vector<HookPoint> hooks;
  for (const auto& name : names) hooks.push_back(site(name));
  return named(hooks);
}

struct ComponentCase {
  const char* name;
  const char* component;
};

// Names of one hook alone.
class Components : public ::testing::TestWithParam<ComponentCase> {};

TEST_P(Components, FollowTheElementsBeforeTheLayer) {
  EXPECT_EQ(all_named({GetParam().name})[0].component, GetParam().component);
}

INSTANTIATE_TEST_SUITE_P(
    HookNames, Components,
    ::testing::Values(
        ComponentCase{"model.layers.0.mlp.gate", "language_model"},
        ComponentCase{"vision_tower.layers.3.moelayer.gate", "vision_tower"},
        ComponentCase{"model.visual.blocks.1.mlp.gate", "vision_tower"},
        ComponentCase{"ViT.blocks.1.gate", "vision_tower"},
        ComponentCase{"image_encoder.layers.0.gate", "vision_tower"},
        ComponentCase{"clip.layers.0.gate", "vision_tower"},
        ComponentCase{"model.SigLIP_model.layers.0.gate", "vision_tower"},
        ComponentCase{"audio_tower.layers.0.gate", "audio_tower"},
        ComponentCase{"speech_model.layers.0.gate", "audio_tower"},
        ComponentCase{"whisper.layers.0.gate", "audio_tower"},
        ComponentCase{"mm_projector.moelayer.gate", "mm_projector"},
        ComponentCase{"model.connector.layers.0.gate", "mm_projector"},
        ComponentCase{"model.merger.gate", "mm_projector"}, ComponentCase{"resampler.gate", "mm_projector"},
        // The first rule that fits: a merger of the vision tower belongs to the tower.
        ComponentCase{"visual.merger.gate", "vision_tower"}, ComponentCase{"audio_tower.projector.gate", "audio_tower"},
        // Elements from the layer number on say nothing.
        ComponentCase{"model.layers.0.vision_gate", "language_model"},
        ComponentCase{"model.layers.0.projector.gate", "language_model"},
        // An encoder alone is the language model, as is a decoder alone.
        ComponentCase{"encoder.layers.0.gate", "language_model"},
        ComponentCase{"decoder.layers.0.gate", "language_model"}, ComponentCase{"gate", "language_model"}));

TEST(HookNames, SplitEncoderAndDecoderWhereBothHaveHooksOfAKind) {
  EXPECT_EQ(all_named({"model.encoder.block.1.mlp.router", "model.decoder.block.1.mlp.router"}),
            (std::vector<Named>{{"model.encoder.block.1.mlp.router", "encoder", "1"},
                                {"model.decoder.block.1.mlp.router", "decoder", "1"}}));
}

TEST(HookNames, DoNotSplitKindsThatOnlyOneSideHas) {
  const auto found = named({site("encoder.block.0.mlp.router"), site("encoder.block.0.attention", HookKind::kAttention),
                            site("decoder.block.0.attention", HookKind::kAttention)});
  EXPECT_EQ(found[0].component, "language_model");
  EXPECT_EQ(found[1].component, "encoder");
  EXPECT_EQ(found[2].component, "decoder");
}

TEST(HookNames, TowersStayOutOfEncoderAndDecoder) {
  const auto found =
      all_named({"vision_tower.encoder.layers.0.gate", "decoder.layers.0.gate", "encoder.layers.0.gate"});
  EXPECT_EQ(found[0].component, "vision_tower");
  EXPECT_EQ(found[1].component, "decoder");
  EXPECT_EQ(found[2].component, "encoder");
}

struct LayerCase {
  const char* what;
  std::vector<std::string> names;
  std::vector<Named> expected;
};

void PrintTo(const LayerCase& layer_case, std::ostream* stream) {
  *stream << layer_case.what;
}

class Layers : public ::testing::TestWithParam<LayerCase> {};

TEST_P(Layers, AreUniqueInAComponent) {
  EXPECT_EQ(all_named(GetParam().names), GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    HookNames, Layers,
    ::testing::Values(LayerCase{"one_a_layer",
                                {"model.layers.1.mlp.gate", "model.layers.3.mlp.gate"},
                                {{"model.layers.1.mlp.gate", "language_model", "1"},
                                 {"model.layers.3.mlp.gate", "language_model", "3"}}},
                      LayerCase{"first_number_counts",
                                {"model.layers.2.experts.5.gate"},
                                {{"model.layers.2.experts.5.gate", "language_model", "2"}}},
                      LayerCase{"number_at_the_end", {"gates.4"}, {{"gates.4", "language_model", "4"}}},
                      // The second router of a block gets a number above the largest, natural ids going first.
                      LayerCase{"two_in_a_block",
                                {"layers.0.attention.router", "layers.0.mlp.router", "layers.1.attention.router",
                                 "layers.1.mlp.router"},
                                {{"layers.0.attention.router", "language_model", "0"},
                                 {"layers.0.mlp.router", "language_model", "2"},
                                 {"layers.1.attention.router", "language_model", "1"},
                                 {"layers.1.mlp.router", "language_model", "3"}}},
                      LayerCase{"one_module_called_thrice",
                                {"block.0.gate", "block.0.gate", "block.0.gate"},
                                {{"block.0.gate", "language_model", "0"},
                                 {"block.0.gate#1", "language_model", "1"},
                                 {"block.0.gate#2", "language_model", "2"}}},
                      LayerCase{"second_calls_after_natural_ids",
                                {"block.0.gate", "block.0.gate", "block.1.gate"},
                                {{"block.0.gate", "language_model", "0"},
                                 {"block.0.gate#1", "language_model", "2"},
                                 {"block.1.gate", "language_model", "1"}}},
                      LayerCase{"frozen",
                                {"order.0", "order.1"},
                                {{"order.0", "language_model", "0"}, {"order.1", "language_model", "1"}}},
                      LayerCase{"outside_any_list",
                                {"shared.gate", "other.gate", "layers.4.gate"},
                                {{"shared.gate", "language_model", "5"},
                                 {"other.gate", "language_model", "6"},
                                 {"layers.4.gate", "language_model", "4"}}},
                      LayerCase{"projector",
                                {"mm_projector.moelayer.gate", "vision_tower.layers.0.gate", "model.layers.0.gate"},
                                {{"mm_projector.moelayer.gate", "mm_projector", "mm_projector"},
                                 {"vision_tower.layers.0.gate", "vision_tower", "0"},
                                 {"model.layers.0.gate", "language_model", "0"}}},
                      LayerCase{"projector_in_a_list",
                                {"mm_projector.layers.1.gate"},
                                {{"mm_projector.layers.1.gate", "mm_projector", "1"}}},
                      LayerCase{"projector_called_twice",
                                {"mm_projector.gate", "mm_projector.gate"},
                                {{"mm_projector.gate", "mm_projector", "mm_projector"},
                                 {"mm_projector.gate#1", "mm_projector", "0"}}},
                      LayerCase{"two_projectors",
                                {"mm_projector.first", "mm_projector.second"},
                                {{"mm_projector.first", "mm_projector", "mm_projector"},
                                 {"mm_projector.second", "mm_projector", "0"}}}),
    [](const auto& info) { return std::string(info.param.what); });

// Numbers that no integer type holds are counted all the same.
TEST(HookNames, CountsOnFromNumbersOfAnyLength) {
  const std::string nines(25, '9'), above = "1" + std::string(25, '0');
  EXPECT_EQ(all_named({"layers." + nines + ".gate", "shared.gate", "other.gate", "layers.7.gate"}),
            (std::vector<Named>{{"layers." + nines + ".gate", "language_model", nines},
                                {"shared.gate", "language_model", above},
                                {"other.gate", "language_model", above.substr(0, 25) + "1"},
                                {"layers.7.gate", "language_model", "7"}}));
  EXPECT_EQ(all_named({"layers.9999999999.gate", "shared.gate"})[1].layer, "10000000000");
}

TEST(HookNames, DropLeadingZeros) {
  EXPECT_EQ(all_named({"layers." + std::string(30, '0') + "12.gate", "layers.012.gate", "layers.000.gate"}),
            (std::vector<Named>{{"layers." + std::string(30, '0') + "12.gate", "language_model", "12"},
                                {"layers.012.gate", "language_model", "13"},
                                {"layers.000.gate", "language_model", "0"}}));
}

TEST(HookNames, KeepTheLayersThatAreSet) {
  std::vector<HookPoint> hooks = {site("layers.0.gate"), site("layers.1.gate"), site("shared.gate")};
  hooks[1].layer = "00" + std::string(25, '8');
  hooks[1].component = "audio_tower";
  hooks[0].component = "audio_tower";
  hooks[2].component = "audio_tower";
  EXPECT_EQ(named(hooks), (std::vector<Named>{{"layers.0.gate", "audio_tower", "0"},
                                              {"layers.1.gate", "audio_tower", std::string(25, '8')},
                                              {"shared.gate", "audio_tower", std::string(24, '8') + "9"}}));
  hooks[0].layer = std::string(25, '8');
  EXPECT_THROW(name_hooks(hooks), HookSpecError) << "the same number twice";
}

TEST(LayerId, IsANumberOrTheProjector) {
  for (const char* id : {"0", "007", "mm_projector", "99999999999999999999999999"}) EXPECT_TRUE(is_layer_id(id)) << id;
  for (const char* other : {"", "-1", "1.5", "first", "1 ", "0x1"}) EXPECT_FALSE(is_layer_id(other)) << other;
}

TEST(ComponentName, NamesFiles) {
  for (const char* name : {"encoder", "tower-2", "a_b"}) EXPECT_TRUE(is_component_name(name)) << name;
  for (const char* other : {"", "a/b", "..", "a b", "a.b"}) EXPECT_FALSE(is_component_name(other)) << other;
}

// Layers are told apart within one (method, component, kind) only.
TEST(HookNames, CountEachMethodAndKindAlone) {
  const auto found = named({site("layers.0.gate"), site("layers.0.attention", HookKind::kAttention),
                            site("layers.0.gate", HookKind::kRouter, "encode")});
  for (const Named& hook : found) EXPECT_EQ(hook.layer, "0");
  EXPECT_EQ(found[2].name, "layers.0.gate") << "a call in another method is no second call";
}

}  // namespace
}  // namespace moetap::hooks
