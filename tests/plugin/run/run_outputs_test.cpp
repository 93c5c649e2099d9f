#include "plugin/run/run_outputs.h"

#include <gtest/gtest.h>

#include "plugin/process/notices.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

ForwardRecord one_forward(const std::shared_ptr<ModelDescription>& model) {
  ForwardRecord record = forward_of(model, {0});
  record.routers = {observe_router({}, seeded_logits(1, {1, 3, 4}))};
  return record;
}

// Rank 1 of 2. The folder of its summary and manifest cannot be created, since a file has that name.
TEST(RunOutputs, AFolderThatCannotBeMadeLeavesTheOtherFiles) {
  const auto model = describe({{"language_model", "0"}});
  Config config;
  config.dump = Dump::kTopk;
  SyntheticRun run(config);
  ::setenv("RANK", "1", 1);
  ::setenv("WORLD_SIZE", "2", 1);
  RunFiles files(run.config());
  ::unsetenv("RANK");
  ::unsetenv("WORLD_SIZE");
  files.add_model(model);
  files.write(one_forward(model));
  write_text_file(run.path("moetap/rank1"), "");
  try {
    files.close({}, {});
    ADD_FAILURE() << "closed";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("moetap/rank1"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(fs::exists(run.path("moetap/dump/rank1/language_model-000000.safetensors")));
  EXPECT_FALSE(fs::exists(run.path("rank1_metric_eval_done.txt")));
  EXPECT_TRUE(fs::exists(run.path("moetap/journal/rank1/forwards.frames")));
}

// Several of LibMoE's readers want layers 0 to 9.
TEST(RunOutputs, WhatLibMoesReadersLackIsSaidWhereTheyAreAskedFor) {
  const auto model = describe({{"language_model", "0"}});
  const std::string notice =
      "log_metrics.json has no layers 1, 2, 3, 4, 5, 6, 7, 8, 9: several of LibMoE's readers drop every sample without "
      "layers 0 to 9";
  std::vector<std::string> lines;
  for (const bool asked : {false, true}) {
    Config config;
    config.libmoe_guide_layout = asked;
    SyntheticRun run(config);
    lines.clear();
    set_notice_handler([&](const std::string& line) { lines.push_back(line); });
    run.write(model, {one_forward(model)});
    set_notice_handler(nullptr);
    EXPECT_EQ(lines, asked ? std::vector<std::string>{notice} : std::vector<std::string>{});
    EXPECT_EQ(run.manifest().at("notices").at(notice), 1);
  }
}

TEST(RunOutputs, DroppedForwardsAreSaidInTheLogAndInOneLine) {
  std::vector<std::string> lines;
  set_notice_handler([&](const std::string& line) { lines.push_back(line); });
  Counters counters;
  counters.forwards = 988;
  counters.dropped = 12;
  counters.unwritten = 1;
  counters.aborted = 2;
  Config config;
  config.on_overflow = OnOverflow::kDrop;
  SyntheticRun run(config), blocking;
  const auto model = describe({{"language_model", "0"}});
  run.write(model, {one_forward(model)}, counters);
  blocking.write(model, {one_forward(model)}, counters);
  set_notice_handler(nullptr);
  EXPECT_EQ(run.log().at("moetap"),
            nlohmann::json::parse(R"({"forwards": 988, "dropped": 12, "unwritten": 1, "aborted": 2})"));
  const std::string text = read_text_file(run.path("log_metrics.json"));
  EXPECT_LT(text.find("\"moetap\""), text.find("\"logs\""));
  EXPECT_EQ(lines, (std::vector<std::string>{"12 of 1000 forwards were dropped: the queue was full (raise queue_bytes, "
                                             "or set on_overflow to block)",
                                             "12 of 1000 forwards were dropped: they ended after the session was "
                                             "closed"}));
}

std::string close_error(RunFiles& files, const Counters& counters) {
  return error_of([&] { files.close(counters, {}); });
}

std::string not_done_line(const SyntheticRun& run, const std::string& reason) {
  return reason + ", so the run is not marked as done; \"notices\" in " + run.path("moetap/manifest.json") + " say why";
}

Counters counted(int64_t forwards, const HookCalls& calls, int64_t unwritten = 0) {
  Counters counters;
  counters.forwards = forwards;
  counters.called_hooks = calls.called;
  counters.failed_hooks = calls.failed;
  counters.unwritten = unwritten;
  return counters;
}

TEST(WhyNotDone, ARunWhoseHooksAllStoppedIsNotDone) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  for (const int64_t failed : {1, 2}) {
    SyntheticRun run;
    RunFiles files(run.config());
    files.add_model(model);
    files.write(two_layers(model, 1, {0}));
    Counters counters;
    counters.forwards = 1;
    counters.called_hooks = 2;
    counters.failed_hooks = failed;
    const std::string message = close_error(files, counters);
    const bool done = failed == 1;
    EXPECT_EQ(message, done ? ""
                            : "every hook stopped after a failure, so the run is not marked as done; \"notices\" in " +
                                  run.path("moetap/manifest.json") + " say why");
    EXPECT_EQ(fs::exists(run.path("rank0_metric_eval_done.txt")), done);
    EXPECT_EQ(fs::exists(run.path("moetap/journal")), !done);
    EXPECT_EQ(run.manifest().at("counters").at("failed_hooks"), failed);
    EXPECT_EQ(run.log().at("logs").size(), 1u);
  }
}

TEST(WhyNotDone, ASessionThatResumesARunWhoseHooksAllStoppedDoesNotMakeItDone) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  const std::string line = not_done_line(run, "every hook stopped after a failure");
  {
    RunFiles files(run.config());
    files.add_model(model);
    files.write(forward_of(model, {0}));
    EXPECT_EQ(close_error(files, counted(1, {2, 2})), line);
  }
  run.config().resume = true;
  {
    RunFiles files(run.config());
    EXPECT_EQ(files.resumed().samples, std::vector<int64_t>{0});
    EXPECT_EQ(close_error(files, {}), line) << "every sample is there, so the host ran nothing";
    EXPECT_EQ(run.manifest().at("counters").at("failed_hooks"), 2);
    EXPECT_FALSE(fs::exists(run.path("rank0_metric_eval_done.txt")));
  }
  RunFiles files(run.config());
  const auto again = describe({{"language_model", "0"}, {"language_model", "1"}}, "again");
  files.add_model(again);
  ForwardRecord good = two_layers(again, 1, {1});
  good.index = 1;
  files.write(good);
  EXPECT_EQ(close_error(files, counted(1, {2, 0})), "");
  EXPECT_TRUE(fs::exists(run.path("rank0_metric_eval_done.txt")));
}

TEST(WhyNotDone, HooksThatWereNeverCalledDoNotCountAsWorking) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}, {"language_model", "2"}});
  SyntheticRun run;
  RunFiles files(run.config());
  files.add_model(model);
  files.write(two_layers(model, 1, {0}));
  ForwardRecord silent = forward_of(model, {1});  // hooks 0 and 1 stopped, 2 is in an arm that is never taken
  silent.index = 1;
  files.write(silent);
  EXPECT_EQ(close_error(files, counted(2, {2, 2})), not_done_line(run, "every hook stopped after a failure"));
  EXPECT_FALSE(fs::exists(run.path("rank0_metric_eval_done.txt")));
}

TEST(WhyNotDone, HooksOfAMethodThatFailedDoNotSpeakForOthers) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}, {"vision", "0"}, {"vision", "1"}});
  model->hooks[2].method = model->hooks[3].method = "encode";
  SyntheticRun run;
  RunFiles files(run.config());
  files.add_model(model);
  files.write(two_layers(model, 1, {0}));
  ForwardRecord silent = forward_of(model, {1});
  silent.method = "encode";
  silent.index = 1;
  files.write(silent);
  EXPECT_EQ(close_error(files, counted(2, {4, 2})), "");
  EXPECT_TRUE(fs::exists(run.path("rank0_metric_eval_done.txt")));
}

TEST(WhyNotDone, ANewestForwardWithoutReportsDoesNotMakeARunWithAFailedHookUnfinished) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  RunFiles files(run.config());
  files.add_model(model);
  files.write(two_layers(model, 1, {0}));
  ForwardRecord silent = forward_of(model, {1});  // it took an arm without routers
  silent.index = 1;
  files.write(silent);
  EXPECT_EQ(close_error(files, counted(2, {2, 1})), "");
  EXPECT_TRUE(fs::exists(run.path("rank0_metric_eval_done.txt")));
}

TEST(WhyNotDone, AHookThatFailedOnlyBeforeAResumeDoesNotKeepTheRunFromBeingDone) {
  const auto model = describe({{"language_model", "0"}});
  SyntheticRun run;
  {
    RunFiles files(run.config());  // the forward in which the hook failed threw: it has no record
    EXPECT_EQ(close_error(files, counted(0, {1, 1})), not_done_line(run, "every hook stopped after a failure"));
  }
  run.config().resume = true;
  RunFiles files(run.config());
  files.add_model(model);
  ForwardRecord good = forward_of(model, {0});
  good.routers = {observe_router({}, seeded_logits(1, {1, 3, 4}))};
  files.write(good);
  EXPECT_EQ(close_error(files, counted(1, {1, 0})), "");
  EXPECT_TRUE(fs::exists(run.path("rank0_metric_eval_done.txt")));
}

TEST(WhyNotDone, ARunThatLostEveryForwardIsNotDone) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  RunFiles files(run.config());
  files.add_model(model);
  ForwardRecord bad = two_layers(model, 2, {0});
  bad.routers[1].hook = 77;
  EXPECT_THROW(files.write(bad), RecordError);
  EXPECT_EQ(close_error(files, counted(1, {2, 0}, 1)), not_done_line(run, "no forward could be recorded"));
  EXPECT_FALSE(fs::exists(run.path("rank0_metric_eval_done.txt")));
  EXPECT_TRUE(fs::exists(run.path("moetap/journal")));
  EXPECT_EQ(run.manifest().at("counters").at("unwritten"), 1);
}

TEST(WhyNotDone, AStrictRunThatLostAForwardIsNotDone) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  SyntheticRun run;
  run.config().strict = true;
  RunFiles files(run.config());
  files.add_model(model);
  files.write(two_layers(model, 1, {0}));
  ForwardRecord bad = two_layers(model, 2, {1});
  bad.index = 1;
  bad.routers[1].hook = 77;
  EXPECT_THROW(files.write(bad), RecordError);
  EXPECT_EQ(close_error(files, counted(2, {2, 0}, 1)),
            not_done_line(run, "1 of 2 forwards could not be recorded and strict is set"));
  EXPECT_FALSE(fs::exists(run.path("rank0_metric_eval_done.txt")));
  EXPECT_EQ(run.log().at("logs").size(), 1u);
}

TEST(WhyNotDone, AStrictRunThatWithholdsAColumnIsNotDone) {
  const auto model = describe({{"language_model", "0"}, {"language_model", "1"}});
  for (const bool strict : {false, true}) {
    SyntheticRun run;
    run.config().strict = strict;
    RunFiles files(run.config());
    files.add_model(model);
    ForwardRecord record = two_layers(model, 1, {0});
    record.unverified = {{1, analysis::kLogitsColumn, "why"}, {1, analysis::kScoresColumn, "too"}};
    files.write(record);
    EXPECT_EQ(close_error(files, counted(1, {2, 0}, 0)),
              strict ? not_done_line(run, "1 hooks have columns that do not fit and strict is set") : "");
    EXPECT_EQ(fs::exists(run.path("rank0_metric_eval_done.txt")), !strict);
    EXPECT_EQ(run.manifest().at("hooks").at(1).at("unverified"),
              nlohmann::json({{"logits", "why"}, {"scores", "too"}}));
  }
}

}  // namespace
}  // namespace moetap::plugin
