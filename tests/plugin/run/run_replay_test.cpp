#include "plugin/run/run_replay.h"

#include <gtest/gtest.h>

#include "plugin/run/run_recovery.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

class RunReplay : public ::testing::Test {
 protected:
  RunReplay() { config_.output_dir = folder_.file("run"); }

  static ForwardRecord record(const std::shared_ptr<ModelDescription>& model, int64_t index) {
    ForwardRecord record = forward_of(model, {index});
    record.index = index;
    record.tokens = 3;
    record.out_of_range = 1;
    record.unattributed = 1;
    record.routers = {observe_router({.attributed = false}, seeded_logits(index, {1, 3, 4}))};
    return record;
  }

  TemporaryFolder folder_;
  Config config_;
};

TEST_F(RunReplay, EachCountComesFromWhereItsTableSays) {
  const RunPaths paths(config_.output_dir, 0);
  Counters synced;
  int64_t value = 100;
  for (const CounterInfo& count : kCounters) synced.*count.member = value++;
  synced.notices["a line"] = 2;
  {
    RunFiles files(config_);
    const auto model = describe({{"language_model", "0"}});
    files.add_model(model);
    for (int64_t i = 0; i < 2; ++i) files.write(record(model, i));
    files.count(synced);
    files.flush();
    files.write(record(model, 2));
  }
  RunJournal journal(paths.journal.string(), RunJournal::Left::kTake);
  const auto start = read_run_start(journal.frames_path());
  ASSERT_TRUE(start);
  const ReplayedRun run = replay(journal, *start, paths, MissingRows::kCount);
  Counters expected = synced;
  expected.forwards = 3;
  expected.tokens = 9;
  expected.out_of_range = 3;
  expected.unattributed = 3;
  for (const CounterInfo& count : kCounters) {
    EXPECT_EQ(run.counters.*count.member, expected.*count.member) << count.key.name;
  }
  EXPECT_EQ(run.counters.notices, synced.notices);
  EXPECT_EQ(run.forwards_handed_over, synced.forwards - synced.unwritten);
  EXPECT_EQ(run.resumed.samples, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(run.resumed.next_forward, 3);
  EXPECT_EQ(run.lost_bytes, 0);
}

TEST_F(RunReplay, WhatIsWithheldIsKept) {
  const RunPaths paths(config_.output_dir, 0);
  {
    RunFiles files(config_);
    const auto model = describe({{"language_model", "0"}});
    files.add_model(model);
    ForwardRecord withheld = record(model, 0);
    withheld.unverified = {{0, analysis::kWeightsColumn, "why"}};
    files.write(withheld);
    files.write(record(model, 1));
  }
  ASSERT_TRUE(recover_run(config_.output_dir).errors.empty());
  const auto manifest = parse_file((paths.about / "manifest.json").string());
  EXPECT_EQ(manifest.at("hooks").at(0).at("unverified"), nlohmann::json({{"weights", "why"}}));
}

TEST_F(RunReplay, AJournalOfAnotherVersionIsRefusedInOneLine) {
  { const RunFiles killed(config_); }
  const std::string frames = RunJournal::frames_path_in(RunPaths(config_.output_dir, 0).journal.string());
  const auto first = FrameReader(frames).next();
  ASSERT_TRUE(first);
  auto start = nlohmann::json::parse(first->payload);
  const int64_t version = start.at("schema_version").get<int64_t>();
  EXPECT_EQ(version, 6);
  start["schema_version"] = 3;
  fs::remove(frames);
  FrameLog(frames).append(kRunStarted, start.dump());
  const std::string line = frames + ": is a journal of version 3, this moetap reads version 6; complete the run with " +
                           "the moetap that wrote it (moetap recover), or name another output_dir";
  config_.resume = true;
  try {
    const RunFiles resumed(config_);
    ADD_FAILURE() << "resumed";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()), line);
  }
  EXPECT_EQ(recover_run(config_.output_dir).errors, (std::vector<std::string>{line}));
  EXPECT_TRUE(fs::exists(frames));  // it stays for the moetap that can read it
}

TEST_F(RunReplay, NothingIsReadFromAJournalWithoutItsFirstFrame) {
  { const RunFiles killed(config_); }
  const std::string frames = RunJournal::frames_path_in(RunPaths(config_.output_dir, 0).journal.string());
  EXPECT_TRUE(read_run_start(frames));
  EXPECT_FALSE(read_first_model(frames));
  fs::resize_file(frames, fs::file_size(frames) - 1);
  EXPECT_FALSE(read_run_start(frames));
}

TEST_F(RunReplay, TheFirstModelIsFoundWithoutReadingForwards) {
  {
    RunFiles files(config_);
    files.add_model(describe({{"language_model", "4"}}, "first"));
    files.add_model(describe({{"language_model", "5"}}, "second"));
  }
  const auto model = read_first_model(RunJournal::frames_path_in(RunPaths(config_.output_dir, 0).journal.string()));
  ASSERT_TRUE(model);
  EXPECT_EQ(model->instance, "first");
}

}  // namespace
}  // namespace moetap::plugin
