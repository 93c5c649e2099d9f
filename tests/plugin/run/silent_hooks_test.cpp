#include "plugin/run/silent_hooks.h"

#include <gtest/gtest.h>

#include "plugin/process/notices.h"
#include "plugin/records/hook_notices.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/synthetic_attention.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

using Lines = std::vector<std::string>;

/// A model whose routers are called language_model.layers.N.gate.
std::shared_ptr<ModelDescription> model_of(int64_t num_layers, const std::string& instance = "instance") {
  std::vector<std::pair<std::string, std::string>> routers;
  for (int64_t i = 0; i < num_layers; ++i) routers.emplace_back("language_model", std::to_string(i));
  return describe(routers, instance);
}

ForwardRecord forward_with(const std::shared_ptr<ModelDescription>& model, const std::vector<int64_t>& hooks,
                           int64_t index = 0) {
  ForwardRecord record = forward_of(model, {index});
  record.index = index;
  for (const int64_t hook : hooks) record.routers.push_back(observe_router({hook}, seeded_logits(1, {1, 3, 4})));
  return record;
}

/// Writes a run and keeps what was said on stderr and the error of its close.
struct Closed {
  Closed(const std::vector<std::shared_ptr<ModelDescription>>& models, const std::vector<ForwardRecord>& forwards,
         Counters counters = {}) {
    counters.forwards = static_cast<int64_t>(forwards.size());
    set_notice_handler([this](const std::string& line) { lines.push_back(line); });
    RunFiles files(run.config());
    for (const auto& model : models) files.add_model(model);
    for (const ForwardRecord& forward : forwards) files.write(forward);
    error = error_of([&] { files.close(counters, {}); });
    set_notice_handler(nullptr);
  }

  std::vector<bool> reported() const {
    std::vector<bool> result;
    const nlohmann::json manifest = run.manifest();
    for (const auto& hook : manifest.at("hooks")) result.push_back(hook.at("reported").get<bool>());
    return result;
  }
  bool is_done() const { return std::filesystem::exists(run.path("rank0_metric_eval_done.txt")); }

  SyntheticRun run;
  Lines lines;
  std::string error;
};

constexpr const char* kOneOfTwo =
    "1 of 2 hooks never reported: \"language_model.layers.1.gate\": no recorded forward took the arm of a branch, or "
    "made a turn of the loop, that holds it";

TEST(SilentHooks, AreNamedOnceOnStderrAndInTheManifest) {
  const auto model = model_of(2);
  const Closed closed({model}, {forward_with(model, {0}, 0), forward_with(model, {0}, 1)});
  EXPECT_EQ(closed.error, "");
  EXPECT_TRUE(closed.is_done());
  EXPECT_EQ(closed.lines, Lines{kOneOfTwo});
  EXPECT_EQ(closed.run.manifest().at("notices").at(kOneOfTwo), 1);
  EXPECT_EQ(closed.reported(), (std::vector<bool>{true, false}));
}

TEST(SilentHooks, NothingIsSaidWhereEveryHookReportedInSomeForward) {
  const auto model = model_of(2);
  const Closed closed({model}, {forward_with(model, {0}, 0), forward_with(model, {1}, 1)});
  EXPECT_EQ(closed.lines, Lines{});
  EXPECT_TRUE(closed.run.manifest().at("notices").empty() ||
              closed.run.manifest().at("notices").dump().find("never reported") == std::string::npos);
  EXPECT_EQ(closed.reported(), (std::vector<bool>{true, true}));
}

TEST(SilentHooks, ARunInWhichNoHookReportedIsNotDone) {
  const auto model = model_of(2);
  const Closed closed({model}, {forward_with(model, {})});
  EXPECT_TRUE(
      closed.error.starts_with("2 of 2 hooks never reported: \"language_model.layers.0.gate\", "
                               "\"language_model.layers.1.gate\": no recorded forward"))
      << closed.error;
  EXPECT_NE(closed.error.find("so the run is not marked as done"), std::string::npos) << closed.error;
  EXPECT_FALSE(closed.is_done());
  EXPECT_EQ(closed.lines, Lines{}) << "the error says it";
  EXPECT_EQ(closed.reported(), (std::vector<bool>{false, false}));
}

TEST(SilentHooks, ARunWithoutForwardsIsDone) {
  const Closed closed({}, {});
  EXPECT_EQ(closed.error, "");
  EXPECT_TRUE(closed.is_done());
}

TEST(SilentHooks, HooksOfOtherMethodsAreNotMissed) {
  const auto model = model_of(2);
  model->hooks[1].method = "encode";
  const Closed closed({model}, {forward_with(model, {0})});
  EXPECT_EQ(closed.lines, Lines{});
  EXPECT_EQ(closed.reported(), (std::vector<bool>{true, false}));
}

TEST(SilentHooks, AHookThatFailedHasItsOwnNotice) {
  const auto model = model_of(3);
  Counters counters;
  counters.called_hooks = 2;
  counters.failed_hooks = 1;
  counters.notices[hook_failed_notice(model->hooks[1].name)] = 1;
  const Closed closed({model}, {forward_with(model, {0})}, counters);
  ASSERT_EQ(closed.lines.size(), 1u);
  EXPECT_TRUE(closed.lines[0].starts_with("1 of 3 hooks never reported: \"language_model.layers.2.gate\":"))
      << closed.lines[0];
}

TEST(SilentHooks, TwinsOfOneModelCountAsOne) {
  const auto first = model_of(2, "first"), second = model_of(2, "second");
  const Closed closed({first, second}, {forward_with(first, {0}, 0), forward_with(second, {1}, 1)});
  EXPECT_EQ(closed.lines, Lines{});
  EXPECT_EQ(closed.reported(), (std::vector<bool>{true, true}));
}

TEST(SilentHooks, ALongListIsCut) {
  const auto model = model_of(12);
  const Closed closed({model}, {forward_with(model, {0})});
  ASSERT_EQ(closed.lines.size(), 1u);
  EXPECT_NE(closed.lines[0].find("layers.8.gate\" and 3 more: no recorded forward"), std::string::npos)
      << closed.lines[0];
  EXPECT_EQ(closed.lines[0].find("layers.9."), std::string::npos) << closed.lines[0];
}

TEST(SilentHooks, AttentionIsSilentOnlyWhereItIsRecorded) {
  const auto model = model_of(1);
  add_attention_hooks(*model, {{"language_model", "0"}, {"language_model", "1"}});
  const Closed off({model}, {forward_with(model, {0})});
  EXPECT_EQ(off.lines, Lines{});
  EXPECT_EQ(off.run.summary().at("attention"), nlohmann::json::object());

  Config config;
  config.attention = Attention::kStats;
  SyntheticRun run(config);
  ForwardRecord forward = forward_with(model, {0});
  forward.attention = {observe_attention({.hook = 1}, seeded_probabilities(1, 1, 3))};
  Lines lines;
  set_notice_handler([&](const std::string& line) { lines.push_back(line); });
  Counters counters;
  counters.forwards = 1;
  run.write(model, {forward}, counters);
  set_notice_handler(nullptr);
  EXPECT_EQ(lines, (Lines{"1 of 3 hooks never reported: \"language_model.layers.1.attn\": no recorded forward took the "
                          "arm of a branch, or made a turn of the loop, that holds it"}));
  EXPECT_EQ(run.summary().at("attention").at("language_model").at("1").at("rows"), 0);
}

}  // namespace
}  // namespace moetap::plugin
