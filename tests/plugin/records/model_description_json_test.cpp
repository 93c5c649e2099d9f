#include "plugin/records/model_description_json.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

namespace moetap::plugin {
namespace {

ModelDescription example() {
  ModelDescription model;
  model.instance = random_instance();
  model.model_file = "dir/\"m\".pt";
  model.sha256 = "ab12";
  model.hooks = {
      {0, "0", "layers.0.gate", hooks::HookKind::kRouter, "forward", "language_model", 8, 2, "softmax"},
      {1, "1", "layers.1.gate#1", hooks::HookKind::kRouter, "encode", "encoder", std::nullopt, std::nullopt, "none"},
      {2, "0", "layers.0.attn", hooks::HookKind::kAttention, "forward", "language_model", {}, {}, ""}};
  hooks::HookPoint& attention = model.hooks[2];
  attention.implementation = "sdpa";
  attention.num_heads = 8;
  attention.self_attention = true;
  attention.tokens.known = attention.key_tokens.known = true;
  attention.tokens.dims = {{hooks::TokenDimRole::kBatch, {{0, 0, 2}}}, {hooks::TokenDimRole::kSequence, {{0, 1, 2}}}};
  attention.key_tokens.dims = {{hooks::TokenDimRole::kBatch, {{1, 0, 2}}}};
  model.skipped = {{"%v, %i = aten::topk(%x)", "indexes tokens, not experts"}};
  model.method_arguments = {{"forward", {"input_ids", "attention_mask"}}, {"encode", {}}};
  return model;
}

TEST(ModelDescription, SurvivesItsText) {
  const ModelDescription model = example();
  const std::string text = to_text(model);
  const ModelDescription read = model_description_from_text(text);
  EXPECT_EQ(to_text(read), text);
  EXPECT_EQ(read.hooks.size(), 3u);
  EXPECT_EQ(read.hooks[1].num_experts, std::nullopt);
  EXPECT_EQ(read.hooks[2].kind, hooks::HookKind::kAttention);
  EXPECT_EQ(read.hooks[2].implementation, "sdpa");
  EXPECT_EQ(read.hooks[2].num_heads, 8);
  EXPECT_EQ(read.hooks[2].num_key_heads, std::nullopt);
  EXPECT_TRUE(read.hooks[2].self_attention);
  EXPECT_EQ(read.hooks[2].tokens, model.hooks[2].tokens);
  EXPECT_EQ(read.hooks[2].key_tokens, model.hooks[2].key_tokens);
  EXPECT_EQ(read.method_arguments, model.method_arguments);
  EXPECT_EQ(instance_of(text), model.instance);
}

TEST(ModelDescription, HoldsWhatIsKnownOfAttention) {
  ModelDescription model = example();
  hooks::HookPoint& hook = model.hooks[2];
  hook.implementation = "sdpa";
  hook.num_heads = 8;
  hook.self_attention = true;
  hook.tokens = {true, {{hooks::TokenDimRole::kBatch, {{0, 0, 2}}}, {hooks::TokenDimRole::kSequence, {{0, 1, 2}}}}};
  hook.key_tokens = {true, {{hooks::TokenDimRole::kBatch, {{1, 0, 2}}}}};
  model.skipped.push_back({"%p = aten::softmax(%s)", "attention over layers", hooks::HookKind::kAttention});
  const std::string text = to_text(model);
  const ModelDescription read = model_description_from_text(text);
  EXPECT_EQ(to_text(read), text);
  EXPECT_EQ(read.hooks[2].implementation, "sdpa");
  EXPECT_EQ(read.hooks[2].num_heads, 8);
  EXPECT_EQ(read.hooks[2].num_key_heads, std::nullopt);
  EXPECT_TRUE(read.hooks[2].self_attention);
  EXPECT_EQ(read.hooks[2].tokens, hook.tokens);
  EXPECT_EQ(read.hooks[2].key_tokens, hook.key_tokens);
  EXPECT_EQ(read.skipped[0].kind, hooks::HookKind::kRouter);
  EXPECT_EQ(read.skipped[1].kind, hooks::HookKind::kAttention);
}

TEST(ModelDescription, OfRoutersAloneSaysNothingOfAttention) {
  ModelDescription model = example();
  model.hooks.pop_back();
  const auto json = nlohmann::json::parse(to_text(model));
  for (const auto& hook : json.at("hooks")) {
    for (const char* key : {"implementation", "key_tokens", "self_attention", "num_heads"}) {
      EXPECT_FALSE(hook.contains(key)) << key;
    }
  }
  EXPECT_FALSE(json.at("skipped").at(0).contains("kind"));
}

TEST(ModelDescription, InstancesDiffer) {
  const std::string instance = random_instance();
  EXPECT_EQ(instance.size(), 32u);
  EXPECT_NE(instance, random_instance());
  EXPECT_EQ(instance_of("{}"), "");
  EXPECT_EQ(instance_of("{\"instance\":\"short\"}"), "");
}

TEST(ModelDescription, BadTextIsOneLine) {
  for (const char* text : {"", "{", "{\"schema_version\": 9}", "[]", "{\"schema_version\": 1, \"instance\": 4}"}) {
    try {
      model_description_from_text(text);
      FAIL() << text;
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("instrument the model again"), std::string::npos);
    }
  }
  auto json = nlohmann::ordered_json::parse(to_text(example()));
  json["hooks"][1]["id"] = 5;
  EXPECT_THROW(model_description_from_text(json.dump()), std::invalid_argument);
}

TEST(ModelDescription, NamesNoFilesElsewhere) {
  for (const char* key : {"component", "layer"}) {
    for (const char* name : {"../elsewhere", "/elsewhere", "a/b", "", "."}) {
      auto json = nlohmann::ordered_json::parse(to_text(example()));
      json["hooks"][0][key] = name;
      EXPECT_THROW(model_description_from_text(json.dump()), std::invalid_argument) << key << " " << name;
    }
  }
}

TEST(ModelDescription, InspectPrintsTheContract) {
  const ModelDescription model = example();
  const auto json = inspect_json({model.hooks, model.skipped}, "m.pt");
  const auto expected = nlohmann::ordered_json::parse(R"json({"schema_version": 1, "model": "m.pt", "hooks": [
    {"id": 0, "layer": "0", "name": "layers.0.gate", "kind": "router", "method": "forward",
     "component": "language_model",
     "num_experts": 8, "top_k": 2, "scoring": "softmax"},
    {"id": 1, "layer": "1", "name": "layers.1.gate#1", "kind": "router", "method": "encode", "component": "encoder",
     "num_experts": null, "top_k": null, "scoring": "none"},
    {"id": 2, "layer": "0", "name": "layers.0.attn", "kind": "attention", "method": "forward",
     "component": "language_model", "implementation": "sdpa", "num_heads": 8, "num_key_heads": null}],
    "skipped": [{"node": "%v, %i = aten::topk(%x)", "reason": "indexes tokens, not experts"}]})json");
  EXPECT_EQ(json.dump(), expected.dump());
}

TEST(ModelDescription, NamesTensorArguments) {
  torch::jit::Module module("M");
  module.define(R"(
    def forward(self, input_ids, flag: bool, attention_mask: Optional[Tensor], sizes: List[int]):
        return input_ids
    def encode(self, pixels):
        return pixels
  )");
  const auto model = describe_model(module, {}, "m.pt", "00");
  EXPECT_EQ(model.method_arguments.at("forward"), (std::vector<std::string>{"input_ids", "attention_mask"}));
  EXPECT_EQ(model.method_arguments.at("encode"), (std::vector<std::string>{"pixels"}));
}

TEST(ModelDescription, NamesArgumentsOfSubmodulesThatHaveHooks) {
  torch::jit::Module encoder("Encoder");
  encoder.define(R"(
    def forward(self, pixels, scale: float):
        return pixels * scale
  )");
  torch::jit::Module module("M");
  module.register_module("encoder", encoder);
  module.define(R"(
    def forward(self, x):
        return x
  )");
  hooks::Discovery discovery;
  discovery.hooks.push_back(
      {0, "0", "encoder.gate", hooks::HookKind::kRouter, "encoder.forward", "encoder", 8, 2, "softmax"});
  const auto model = describe_model(module, discovery, "", "");
  EXPECT_EQ(model.method_arguments.at("encoder.forward"), (std::vector<std::string>{"pixels"}));
  EXPECT_EQ(model.method_arguments.at("forward"), (std::vector<std::string>{"x"}));
}

}  // namespace
}  // namespace moetap::plugin
