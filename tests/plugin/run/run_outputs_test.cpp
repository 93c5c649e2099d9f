#include "plugin/run/run_outputs.h"

#include <gtest/gtest.h>

#include "plugin/process/notices.h"
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

}  // namespace
}  // namespace moetap::plugin
