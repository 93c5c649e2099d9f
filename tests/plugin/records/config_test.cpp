#include "plugin/records/config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "plugin/records/config_keys.h"

namespace moetap::plugin {
namespace {

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

std::string error_of_text(const std::string& text) {
  return error_of([&] { Config::from_json_text(text, "c.json"); });
}

TEST(Config, ReadsWhatItWrites) {
  const Config config = Config::from_json_text(
      R"({"output_dir": "run", "task": "mme", "dump": "full", "probe_tokens": 3, "log_entries": "forward",
          "log_forwards": "last",
          "log_per_token": false, "queue_bytes": 1024, "on_overflow": "drop", "strict": true, "token_mask": "keep",
          "token_mask_means": "padding"})",
      "c.json");
  EXPECT_EQ(config.output_dir, "run");
  EXPECT_EQ(config.dump, Dump::kFull);
  EXPECT_EQ(config.log_entries, LogEntries::kForward);
  EXPECT_EQ(config.log_forwards, LogForwards::kLast);
  EXPECT_EQ(config.on_overflow, OnOverflow::kDrop);
  EXPECT_EQ(config.queue_bytes, 1024);
  EXPECT_EQ(config.token_mask_means, TokenMaskMeans::kPadding);
  EXPECT_TRUE(config.strict);
  EXPECT_FALSE(config.log_per_token);
  EXPECT_EQ(Config::from_json(config.to_json(), "again").to_json(), config.to_json());
}

TEST(Config, DefaultsAreTheMembers) {
  const auto json = Config{}.to_json();
  EXPECT_EQ(json.at("task"), "log_metrics");
  EXPECT_EQ(json.at("dump"), "none");
  EXPECT_EQ(json.at("probe_tokens"), 64);
  EXPECT_EQ(json.at("log_entries"), "row");
  EXPECT_EQ(json.at("log_forwards"), "merged");
  EXPECT_EQ(json.at("log_per_token"), true);
  EXPECT_EQ(json.at("on_overflow"), "block");
  EXPECT_EQ(json.at("token_mask_means"), "auto");
  EXPECT_EQ(json.size(), config_keys().size());
}

TEST(Config, RelativePathsStartAtADirectory) {
  Config config;
  config.output_dir = "run-{pid}/";
  config.samples = "/data/samples.jsonl";
  config.hooks = "specs/a.json";
  config.make_paths_absolute("/start");
  EXPECT_EQ(config.output_dir, "/start/run-{pid}/");
  EXPECT_EQ(config.samples, "/data/samples.jsonl");
  EXPECT_EQ(config.hooks, "/start/specs/a.json");
  const Config once = config;
  config.make_paths_absolute("/elsewhere");
  EXPECT_EQ(config.to_json(), once.to_json());
  Config none;
  none.make_paths_absolute("/start");
  EXPECT_EQ(none.to_json(), Config{}.to_json());
  none.hooks = nlohmann::json::array();
  none.make_paths_absolute("/start");
  EXPECT_EQ(none.hooks, nlohmann::json::array());
}

TEST(Config, EveryKeyIsDocumentedOnce) {
  std::set<std::string_view> names;
  for (const auto& key : config_keys()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    EXPECT_TRUE(key.doc.ends_with('.')) << key.name;
    EXPECT_EQ(key.type == ConfigType::kChoice, !key.choices.empty()) << key.name;
  }
}

TEST(Config, ErrorsNameKeyExpectationActualAndSource) {
  EXPECT_EQ(error_of_text(R"({"dump": "most"})"),
            "c.json: key \"dump\" must be one of none, ids, topk, full, got string \"most\"");
  EXPECT_EQ(error_of_text(R"({"strict": 1})"), "c.json: key \"strict\" must be true or false, got number 1");
  EXPECT_EQ(error_of_text(R"({"probe_tokens": -1})"),
            "c.json: key \"probe_tokens\" must be an integer >= 0, got number -1");
  EXPECT_EQ(error_of_text(R"({"probe_tokens": 1.5})"),
            "c.json: key \"probe_tokens\" must be an integer >= 0, got number 1.5");
  EXPECT_EQ(error_of_text(R"({"queue_bytes": 18446744073709551615})"),
            "c.json: key \"queue_bytes\" must be an integer >= 0, got number 18446744073709551615");
  EXPECT_EQ(error_of_text(R"({"task": null})"), "c.json: key \"task\" must be text, got null null");
  EXPECT_EQ(error_of_text("[1]"), "c.json: the configuration must be a JSON object, got array");
  EXPECT_EQ(error_of_text("{\"task\": "), "c.json: not valid JSON at byte 10");
  EXPECT_TRUE(
      error_of_text(R"({"dmp": "topk"})").starts_with("c.json: unknown key \"dmp\"; the keys are output_dir, task,"));
  EXPECT_TRUE(error_of([] { Config::from_json_file("/no/such.json"); }).starts_with("/no/such.json: "));
}

TEST(Config, AliasMustAgree) {
  EXPECT_FALSE(Config::from_json_text(R"({"return_id_experts": false})", "c").log_per_token);
  EXPECT_FALSE(Config::from_json_text(R"({"return_id_experts": false, "log_per_token": false})", "c").log_per_token);
  EXPECT_NE(error_of_text(R"({"return_id_experts": false, "log_per_token": true})").find("must agree"),
            std::string::npos);
}

TEST(Config, OptionsComeAsText) {
  Config config;
  config.set_from_text("probe_tokens", "12", "--probe-tokens");
  config.set_from_text("dump", "topk", "--dump");
  config.set_from_text("renumber_layers", "true", "--renumber-layers");
  EXPECT_EQ(config.probe_tokens, 12);
  EXPECT_EQ(config.dump, Dump::kTopk);
  EXPECT_TRUE(config.renumber_layers);
  EXPECT_EQ(error_of([&] { config.set_from_text("probe_tokens", "12x", "--probe-tokens"); }),
            "--probe-tokens: key \"probe_tokens\" must be an integer >= 0, got string \"12x\"");
  EXPECT_NE(
      error_of([&] { config.set_from_text("probe_tokens", "\xff", "--probe-tokens"); }).find("must be an integer"),
      std::string::npos);
}

TEST(Config, RefusesWhatASessionCannotDo) {
  Config config;
  config.attention_regions = "parts:17";
  EXPECT_NE(error_of([&] { config.check(); }).find("attention"), std::string::npos);
  config = {};
  config.hooks = "none/spec.json";
  EXPECT_NE(error_of([&] { config.check(); }).find("none/spec.json: the hook spec cannot be read"), std::string::npos);
  config.hooks = nlohmann::json::parse(R"([{"module": "moe", "leyer": "1"}])");
  EXPECT_NE(error_of([&] { config.check(); }).find("hooks: entry 0: unknown field"), std::string::npos);
  config.hooks = nlohmann::json::parse(R"([{"module": "moe", "layer": "1"}])");
  EXPECT_NO_THROW(config.check());
  config = {};
  config.task = "a/b";
  EXPECT_NE(error_of([&] { config.check(); }).find("\"a/b\""), std::string::npos);
}

}  // namespace
}  // namespace moetap::plugin
