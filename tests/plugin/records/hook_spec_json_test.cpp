#include "plugin/records/hook_spec_json.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

using hooks::ValueReference;

hooks::HookSpec read(const std::string& text) {
  return hook_spec_from_json(nlohmann::json::parse(text), "spec.json");
}

std::string error_of(const std::string& text) {
  try {
    read(text);
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(HookSpecJson, ReadsEveryField) {
  const auto spec = read(R"json([
    {"module": "blocks\\.(\\d+)\\.moe", "kind": "router", "method": "encoder.forward", "call": -1, "name": "r$1",
     "layer": "$1", "component": "vision_tower", "logits": {"output_of": "router_proj"},
     "scores": {"variable": "scores"}, "selected": {"op": "aten::topk", "output": 1, "occurrence": -1},
     "weights": [{"input_of": "combine", "argument": 1}, {"input_of": "combine", "argument": "w", "method": "run"}],
     "scoring": "softmax", "form": "dense", "num_experts": 8, "top_k": 2, "expert_dim": 1},
    {"module": "mtp.*", "skip": true},
    {"module": "dense", "selected": "all", "layer": 7}])json");
  EXPECT_EQ(spec.source, "spec.json");
  ASSERT_EQ(spec.entries.size(), 3u);
  const auto& entry = spec.entries[0];
  EXPECT_EQ(entry.module, "blocks\\.(\\d+)\\.moe");
  EXPECT_EQ(entry.method, "encoder.forward");
  EXPECT_EQ(entry.call, -1);
  EXPECT_FALSE(entry.skip);
  EXPECT_EQ(entry.name, "r$1");
  EXPECT_EQ(entry.layer, "$1");
  EXPECT_EQ(entry.component, "vision_tower");
  EXPECT_EQ(entry.logits->kind, ValueReference::Kind::kOutputOf);
  EXPECT_EQ(entry.logits->target, "router_proj");
  EXPECT_EQ(entry.scores->kind, ValueReference::Kind::kVariable);
  ASSERT_EQ(entry.selected.size(), 1u);
  EXPECT_EQ(entry.selected[0].kind, ValueReference::Kind::kOperator);
  EXPECT_EQ(entry.selected[0].output, 1);
  EXPECT_EQ(entry.selected[0].occurrence, -1);
  ASSERT_EQ(entry.weights.size(), 2u);
  EXPECT_EQ(entry.weights[0].kind, ValueReference::Kind::kInputOf);
  EXPECT_EQ(entry.weights[0].argument, 1);
  EXPECT_EQ(entry.weights[1].argument_name, "w");
  EXPECT_EQ(entry.weights[1].method, "run");
  EXPECT_EQ(entry.scoring, "softmax");
  EXPECT_EQ(entry.form, "dense");
  EXPECT_EQ(entry.num_experts, 8);
  EXPECT_EQ(entry.top_k, 2);
  EXPECT_EQ(entry.expert_dim, 1);
  EXPECT_TRUE(spec.entries[1].skip);
  EXPECT_FALSE(spec.entries[1].names_values());
  EXPECT_TRUE(spec.entries[2].selects_all);
  EXPECT_EQ(spec.entries[2].layer, "7");
}

TEST(HookSpecJson, ReadsEveryFieldOfAttention) {
  const auto spec = read(R"json([
    {"module": "h\\.(\\d+)\\.attn", "kind": "attention", "layer": "$1", "query": {"variable": "q"},
     "key": {"input_of": "core", "argument": "k"}, "mask": {"op": "aten::eq"}, "scale": 0.125, "causal": true,
     "layout": "bqhk", "num_heads": 8, "num_key_heads": 2, "implementation": "paged", "self_attention": false},
    {"module": "a", "kind": "attention", "probabilities": {"op": "aten::softmax"}, "scores": {"variable": "s"},
     "layout": "bgrqk"},
    {"module": "b", "kind": "attention", "skip": true}])json");
  ASSERT_EQ(spec.entries.size(), 3u);
  for (const auto& entry : spec.entries) EXPECT_EQ(entry.kind, hooks::HookKind::kAttention);
  EXPECT_TRUE(spec.names(hooks::HookKind::kAttention));
  EXPECT_FALSE(spec.names(hooks::HookKind::kRouter));
  const auto& first = spec.entries[0].attention;
  EXPECT_EQ(spec.entries[0].layer, "$1");
  EXPECT_EQ(first.query->kind, ValueReference::Kind::kVariable);
  EXPECT_EQ(first.key->argument_name, "k");
  EXPECT_EQ(first.mask->target, "aten::eq");
  EXPECT_EQ(first.scale, 0.125);
  EXPECT_EQ(first.causal, true);
  EXPECT_EQ(first.layout, "bqhk");
  EXPECT_EQ(first.num_heads, 8);
  EXPECT_EQ(first.num_key_heads, 2);
  EXPECT_EQ(first.implementation, "paged");
  EXPECT_EQ(first.self_attention, false);
  EXPECT_FALSE(first.probabilities.has_value());
  const auto& second = spec.entries[1].attention;
  EXPECT_EQ(second.probabilities->target, "aten::softmax");
  EXPECT_EQ(second.scores->target, "s");
  EXPECT_FALSE(second.causal.has_value());
  EXPECT_TRUE(spec.entries[2].skip);
  EXPECT_FALSE(spec.entries[2].names_values());
}

struct Wrong {
  const char* text;
  std::vector<const char*> parts;
};

void PrintTo(const Wrong& wrong, std::ostream* stream) {
  *stream << wrong.text;
}

class WrongHookSpec : public testing::TestWithParam<Wrong> {};

TEST_P(WrongHookSpec, IsOneLineThatSaysWhereAndWhat) {
  const std::string error = error_of(GetParam().text);
  EXPECT_TRUE(error.starts_with("spec.json: ")) << error;
  for (const char* part : GetParam().parts) EXPECT_NE(error.find(part), std::string::npos) << part << "\nin: " << error;
}

INSTANTIATE_TEST_SUITE_P(
    HookSpecJson, WrongHookSpec,
    testing::Values(
        Wrong{"{}", {"array", "object"}}, Wrong{"[]", {"at least one entry"}}, Wrong{"[3]", {"entry 0", "number 3"}},
        Wrong{R"([{"module": "a", "skip": true}, {"skip": true}])", {"entry 1", "must have module"}},
        Wrong{R"([{"module": "a", "lager": "1"}])", {"entry 0", "unknown field \"lager\"", "layer"}},
        Wrong{R"([{"module": "a(", "skip": true}])", {"entry 0", "module", "\"a(\" is no regular expression"}},
        Wrong{R"([{"module": 1, "skip": true}])", {"module must be text", "number 1"}},
        Wrong{R"([{"module": "a", "kind": "attentoin", "layer": "1"}])", {"kind must be one of router, attention"}},
        Wrong{R"([{"module": "a", "kind": "attention", "logits": {"op": "x"}}])",
              {"entry 0", "logits goes with \"kind\": \"router\""}},
        Wrong{R"([{"module": "a", "query": {"op": "x"}}])", {"query goes with \"kind\": \"attention\""}},
        Wrong{R"([{"module": "a", "kind": "attention", "queries": {"op": "x"}}])", {"unknown field", "query, key"}},
        Wrong{R"([{"module": "a", "kind": "attention"}])", {"says nothing"}},
        Wrong{R"([{"module": "a", "kind": "attention", "scale": "big"}])", {"scale must be a number, got", "big"}},
        Wrong{R"([{"module": "a", "kind": "attention", "causal": 1}])", {"causal must be true or false", "1"}},
        Wrong{R"([{"module": "a", "kind": "attention", "key": "k"}])", {"entry 0: key", "must be an object"}},
        Wrong{R"([{"module": "a", "kind": "attention", "num_heads": 0}])", {"num_heads must be an integer >= 1"}},
        Wrong{R"([{"module": "a", "kind": "attention", "layout": "bhq"}])", {"layout must be", "bhq"}},
        Wrong{R"([{"module": "a", "kind": "attention", "layout": "bbqk"}])", {"layout must be", "each once"}},
        Wrong{R"([{"module": "a", "kind": "attention", "probabilities": {"op": "x"}, "mask": {"op": "y"}}])",
              {"mask and probabilities exclude each other"}},
        Wrong{R"([{"module": "a", "kind": "attention", "query": {"op": "x"}, "scores": {"op": "y"}}])",
              {"query and scores exclude each other"}},
        Wrong{R"([{"module": "a", "skip": "yes"}])", {"skip must be true or false"}},
        Wrong{R"([{"module": "a", "skip": true, "layer": "1"}])", {"skip", "nothing else"}},
        Wrong{R"([{"module": "a"}])", {"says nothing"}}, Wrong{R"([{"module": "a", "skip": false}])", {"says nothing"}},
        Wrong{R"([{"module": "a", "layer": 1.5}])", {"layer must be text"}},
        Wrong{R"([{"module": "a", "num_experts": 0}])", {"num_experts must be an integer >= 1"}},
        Wrong{R"([{"module": "a", "num_experts": 18446744073709551615}])", {"num_experts must be an integer"}},
        Wrong{R"([{"module": "a", "form": "round"}])", {"form must be one of slots, dense"}},
        Wrong{R"([{"module": "a", "selected": []}])", {"selected must name at least one"}},
        Wrong{R"([{"module": "a", "selected": "some"}])", {"entry 0: selected", "must be an object", "some"}},
        Wrong{R"([{"module": "a", "selected": {}}])", {"one of output_of, input_of, op, variable, got 0"}},
        Wrong{R"([{"module": "a", "logits": {"op": "x", "variable": "y"}}])", {"entry 0: logits", "got 2"}},
        Wrong{R"([{"module": "a", "logits": {"opp": "x"}}])", {"entry 0: logits", "unknown field \"opp\""}},
        Wrong{R"([{"module": "a", "logits": {"variable": "("}}])", {"logits", "no regular expression"}},
        Wrong{R"([{"module": "a", "logits": {"output_of": "x", "argument": 1}}])", {"argument goes with input_of"}},
        Wrong{R"([{"module": "a", "logits": {"op": "x", "method": "f"}}])", {"method goes with output_of"}},
        Wrong{R"([{"module": "a", "logits": {"op": "x", "output": 1, "argument": 1}}])", {"exclude each other"}},
        Wrong{R"([{"module": "a", "logits": {"op": "x", "output": -1}}])", {"output must be an integer >= 0"}},
        Wrong{R"([{"module": "a", "weights": [{"input_of": "x", "argument": 1.5}]}])", {"weights", "a name or an"}}));

TEST(HookSpecJson, IsReadFromAFileOrAConfiguration) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/spec.json";
  std::ofstream(path) << R"([{"module": "a", "skip": true}])";
  EXPECT_EQ(hook_spec_from_file(path).source, path);
  EXPECT_EQ(hook_spec_from_config(path).entries.size(), 1u);
  EXPECT_EQ(hook_spec_from_config(nlohmann::json::parse(R"([{"module": "a", "skip": true}])")).source, "hooks");
  EXPECT_TRUE(hook_spec_from_config(nullptr).empty());
  EXPECT_THROW(hook_spec_from_file(folder.path() + "/none.json"), std::invalid_argument);
  std::ofstream(path) << "[{";
  EXPECT_THROW(hook_spec_from_file(path), std::invalid_argument);
}

}  // namespace
}  // namespace moetap::plugin
