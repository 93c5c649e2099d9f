// What a process that died left is recovered: the files are those of an undisturbed run.
#include "plugin/run/run_recovery.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <set>

#include "plugin/dump/dump_series.h"
#include "plugin/formats/frame_log.h"
#include "plugin/formats/safetensors.h"
#include "plugin/journal/run_journal.h"
#include "tests/plugin/run/killed_run.h"
#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

class RunRecovery : public KilledRun {};

TEST_F(RunRecovery, EqualsAnUndisturbedRun) {
  write_and_die(0, kForwards);
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.errors, std::vector<std::string>{});
  ASSERT_EQ(recovery.ranks.size(), 1u);
  EXPECT_EQ(recovery.ranks[0].forwards, kForwards);
  EXPECT_EQ(recovery.ranks[0].entries, 2 * kForwards);
  EXPECT_FALSE(recovery.ranks[0].note.anything());
  expect_run_of(kForwards);
  EXPECT_EQ(manifest().at("recovered"), true);
  EXPECT_EQ(manifest().at("lost"), nlohmann::json::parse(R"({"journal_bytes": 0, "forwards": 0, "dump_rows": 0})"));
  EXPECT_EQ(manifest().at("counters").at("tokens"), 6 * kForwards);
  EXPECT_EQ(manifest().at("counters").at("unattributed"), kForwards);
  EXPECT_EQ(manifest().at("counters").at("out_of_range"), kForwards / 2);
  // Recovered a second time, there is nothing to do.
  const auto again = recover_run(run());
  EXPECT_TRUE(again.ranks.empty() && again.errors.empty());
}

TEST_F(RunRecovery, CountersAreThoseOfTheLastFlush) {
  {
    RunFiles files(config_);
    const auto model = three_layers();
    files.add_model(model);
    for (int64_t i = 0; i < 5; ++i) files.write(forward_number(model, i));
    Counters counters;
    counters.forwards = 7;  // two more wait in the queue
    counters.dropped = 3;
    counters.aborted = 2;
    counters.failed_hooks = 1;
    counters.label_mismatches = 4;
    counters.notices["something to know"] = 6;
    files.count(counters);
    files.flush();
  }
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.ranks.size(), 1u);
  EXPECT_EQ(recovery.ranks[0].note.lost_forwards, 2);
  const auto counters = manifest().at("counters");
  EXPECT_EQ(counters.at("forwards"), 7);
  EXPECT_EQ(counters.at("unwritten"), 2);
  EXPECT_EQ(counters.at("dropped"), 3);
  EXPECT_EQ(counters.at("aborted"), 2);
  EXPECT_EQ(counters.at("failed_hooks"), 1);
  EXPECT_EQ(counters.at("label_mismatches"), 4);
  EXPECT_EQ(manifest().at("notices").at("something to know"), 6);
  EXPECT_EQ(manifest().at("lost").at("forwards"), 2);
  expect_run_of(5);
}

TEST_F(RunRecovery, ARunWithoutAForwardIsNotDone) {
  write_and_die(0, 0);
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.errors.size(), 1u);
  EXPECT_NE(recovery.errors[0].find("died before it recorded a forward"), std::string::npos) << recovery.errors[0];
  ASSERT_EQ(recovery.ranks.size(), 1u);
  EXPECT_EQ(recovery.ranks[0].forwards, 0);
  EXPECT_FALSE(fs::exists(run("rank0_metric_eval_done.txt"))) << "it can be resumed";
}

TEST_F(RunRecovery, ATruncatedJournalGivesTheForwardsBeforeTheCut) {
  constexpr int64_t kFew = 5;
  write_and_die(0, kFew);
  const std::string whole = folder_.file("whole");
  fs::rename(run(), whole);
  const auto frames = frames_of(whole + "/moetap/journal/rank0/forwards.frames");
  // Cuts in the head, in the payload, one byte before the end and at the end of each frame after the first.
  std::set<uint32_t> kinds;
  for (size_t i = 1; i < frames.size(); ++i) {
    kinds.insert(frames[i].kind);
    for (const int64_t cut :
         {frames[i].begin + 10, (frames[i].begin + frames[i].end) / 2, frames[i].end - 1, frames[i].end}) {
      fs::copy(whole, run(), fs::copy_options::recursive);
      fs::resize_file(journal("forwards.frames"), static_cast<uintmax_t>(cut));
      int64_t forwards = 0;
      int64_t counted_end = frames[0].end;
      for (const auto& frame : frames) {
        if (frame.end > cut) break;
        forwards += frame.kind == kForward ? 1 : 0;
        if (frame.kind == kForward || frame.kind == kModelAdded) counted_end = frame.end;
      }
      const auto recovery = recover_run(run());
      ASSERT_EQ(recovery.errors.empty(), forwards > 0) << "cut at " << cut;  // a run of nothing is not done
      EXPECT_EQ(recovery.ranks.at(0).forwards, forwards) << "cut at " << cut;
      EXPECT_EQ(recovery.ranks.at(0).note.lost_bytes, cut - counted_end) << "cut at " << cut;
      if (forwards > 0) expect_run_of(forwards);
      if (HasFailure()) FAIL() << "cut at " << cut;
      fs::remove_all(run());
    }
  }
  EXPECT_EQ(kinds, (std::set<uint32_t>{kModelAdded, kForward, kProbe, kHookPlaced, kMethodRan, kDumpLayout}));
}

TEST_F(RunRecovery, AFlippedByteEndsTheJournal) {
  write_and_die(0, 6);
  const auto frames = frames_of(journal("forwards.frames"));
  std::vector<PlacedFrame> forwards;
  for (const auto& frame : frames) {
    if (frame.kind == kForward) forwards.push_back(frame);
  }
  std::string bytes = read_text_file(journal("forwards.frames"));
  bytes[static_cast<size_t>(forwards[4].begin + 100)] ^= 4;
  write_text_file(journal("forwards.frames"), bytes);
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.ranks.size(), 1u);
  EXPECT_EQ(recovery.ranks[0].forwards, 4);
  EXPECT_GE(recovery.ranks[0].note.lost_bytes, forwards[5].end - forwards[4].begin);
  EXPECT_EQ(manifest().at("lost").at("journal_bytes"), recovery.ranks[0].note.lost_bytes);
  expect_run_of(4);
}

TEST_F(RunRecovery, RowsOfTheDumpThatAreMissingAreCounted) {
  write_and_die(0, kForwards);
  const std::string rows = journal("vision_tower-000000.rows");
  const auto frames = frames_of(rows);
  fs::resize_file(rows, static_cast<uintmax_t>(frames.back().end - 3));
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.ranks.size(), 1u);
  EXPECT_EQ(recovery.ranks[0].forwards, kForwards);
  EXPECT_EQ(recovery.ranks[0].note.missing_dump_rows, 5);
  EXPECT_EQ(manifest().at("lost").at("dump_rows"), 5);
  EXPECT_EQ(parse_file(run("log_metrics.json")).at("logs").size(), 2u * kForwards);
}

TEST_F(RunRecovery, AShardWhoseRowsAreStillThereHoldsThemOnce) {
  write_and_die(0, kForwards);
  // As if the process had died between the rename of each shard and the removal of its files in the journal.
  int shards = 0;
  for (const auto& file : rows_files()) {
    const std::string shard = run("moetap/dump/rank0/" + file.stem().string() + ".safetensors");
    fs::create_directories(run("moetap/dump/rank0"));
    const fs::path columns = fs::path(file).replace_extension(".columns");
    for (const fs::path& kept : {file, columns}) fs::copy(kept, kept.string() + ".kept");
    ShardRows::reopen(file.string())->become_shard(shard);
    for (const fs::path& kept : {file, columns}) fs::rename(kept.string() + ".kept", kept);
    ASSERT_TRUE(fs::exists(file) && fs::exists(shard));
    ++shards;
  }
  ASSERT_EQ(shards, 3);
  recover_run(run());
  expect_run_of(kForwards);
}

TEST_F(RunRecovery, FinishedShardsLoseRowsOfForwardsThatDoNotCount) {
  write_and_die(0, kForwards);
  const auto frames = frames_of(journal("forwards.frames"));
  // All dump rows are in shards, as after a close that failed later. The journal is damaged, too.
  for (const auto& file : rows_files()) {
    auto rows = ShardRows::reopen(file.string());
    fs::create_directories(run("moetap/dump/rank0"));
    rows->become_shard(run("moetap/dump/rank0/" + file.stem().string() + ".safetensors"));
  }
  int64_t forwards = 0;
  for (const auto& frame : frames) {
    if (frame.kind == kForward && ++forwards == 8) {
      fs::resize_file(journal("forwards.frames"), static_cast<uintmax_t>(frame.end - 1));
    }
  }
  recover_run(run());
  expect_run_of(7);
}

TEST_F(RunRecovery, AFirstFrameThatIsNotMoetapsIsRefusedInOneLine) {
  write_and_die(0, 1);
  fs::remove(journal("forwards.frames"));
  FrameLog(journal("forwards.frames")).append(kRunStarted, R"({"schema_version": 6})");
  const auto recovery = recover_run(run());
  EXPECT_EQ(recovery.errors,
            (std::vector<std::string>{
                journal("forwards.frames") +
                ": the first frame of the journal is whole, but its content is not what moetap writes"}));
}

TEST_F(RunRecovery, AfterAFullDiskTheRestIsThere) {
  const auto model = three_layers();
  {
    RunFiles files(config_);
    files.add_model(model);
    for (int64_t i = 0; i < 4; ++i) files.write(forward_number(model, i));
    // Stands for a full disk: a folder is in the way of the new series' file. The other series' dump rows are appended
    // before that fails.
    auto other = describe({{"language_model", "0"}, {"zz", "0"}}, "other");
    files.add_model(other);
    fs::create_directories(journal("zz-000000.rows/in_the_way"));
    ForwardRecord record = forward_of(other, {100});
    record.routers = {observe_router({.hook = 0}, seeded_logits(1, {1, 3, 4})),
                      observe_router({.hook = 1}, seeded_logits(2, {1, 2, 4}))};
    EXPECT_NE(error_of<std::exception>([&] { files.write(record); }), "");
    fs::remove_all(journal("zz-000000.rows"));
    files.close({}, {});
  }
  EXPECT_EQ(parse_file(run("log_metrics.json")).at("logs").size(), 8u);
  EXPECT_FALSE(fs::exists(run("rank0_metric_eval_done.txt")));
  recover_run(run());
  auto contents = read_run(config_.output_dir, config_.task);
  EXPECT_EQ(contents.log.size(), 8u);
  EXPECT_EQ(difference(contents, undisturbed(4)), "");
}

TEST_F(RunRecovery, WhatIsNoRunIsSaid) {
  EXPECT_EQ(error_of<std::exception>([&] { recover_run(folder_.file("nowhere")); }),
            folder_.file("nowhere") + ": there is no such directory; name the directory of a run");
  fs::create_directories(run());
  EXPECT_EQ(error_of<std::exception>([&] { recover_run(run()); }), run() + ": holds no run, nothing to recover");
  fs::create_directories(run("moetap/journal/rank0"));
  write_text_file(journal("forwards.frames"), std::string(1000, 'x'));
  const auto garbage = recover_run(run());
  ASSERT_EQ(garbage.errors.size(), 1u);
  EXPECT_EQ(garbage.errors[0],
            run("moetap/journal/rank0") + ": nothing can be recovered, the first frame of the journal is damaged");
}

TEST_F(RunRecovery, ARunThatIsWrittenIsLeftAlone) {
  RunFiles files(config_);
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.errors.size(), 1u);
  EXPECT_NE(recovery.errors[0].find("is written by another session (pid " + std::to_string(::getpid()) + " on "),
            std::string::npos)
      << recovery.errors[0];
}

}  // namespace
}  // namespace moetap::plugin
