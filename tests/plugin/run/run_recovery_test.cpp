// What a process that died left is recovered or resumed. Either way the files are those of an undisturbed run.
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
#include "tests/plugin/support/run_contents.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kForwards = 12;

std::shared_ptr<ModelDescription> three_layers(const std::string& instance = "instance") {
  return describe({{"language_model", "0"}, {"language_model", "1"}, {"vision_tower", "0"}}, instance);
}

// Two samples in each forward. The vision tower's tokens cannot be told apart by sample; layer 1 prunes a token in
// every fourth forward.
ForwardRecord forward_number(const std::shared_ptr<ModelDescription>& model, int64_t i) {
  ForwardRecord record = forward_of(model, {2 * i, 2 * i + 1}, 0.25);
  record.index = i;
  record.tokens = 6;
  record.out_of_range = i % 2;
  record.unattributed = 1;
  const at::Tensor valid = at::ones({2, 3}, at::kBool);
  if (i % 4 == 3) valid[1][2] = false;
  record.routers = {observe_router({.hook = 0}, seeded_logits(i, {2, 3, 4})),
                    observe_router({.hook = 1}, seeded_logits(i + 1000, {2, 3, 4}), valid),
                    observe_router({.hook = 2, .attributed = false}, seeded_logits(i + 2000, {1, 5, 4}))};
  record.custom[{"", "0"}]["diver_loss"] = 0.5 + static_cast<double>(i);
  return record;
}

Config test_config() {
  Config config;
  config.dump = Dump::kFull;
  config.probe_tokens = 40;
  return config;
}

class RunRecovery : public ::testing::Test {
 protected:
  RunRecovery() { config_.output_dir = folder_.file("run"); }

  /// Writes the forwards of [begin, end) and leaves everything as a killed process would.
  void write_and_die(int64_t begin, int64_t end, const std::string& instance = "instance") {
    RunFiles files(config_);
    const auto model = three_layers(instance);
    files.add_model(model);
    for (int64_t i = begin; i < end; ++i) files.write(forward_number(model, i));
  }

  /// The files of a run that recorded the first `forwards` forwards and closed.
  const RunContents& undisturbed(int64_t forwards) {
    const auto known = undisturbed_.find(forwards);
    if (known != undisturbed_.end()) return known->second;
    Config config = config_;
    config.output_dir = folder_.file("undisturbed" + std::to_string(forwards));
    config.resume = false;
    RunFiles files(config);
    const auto model = three_layers();
    files.add_model(model);
    Counters counters;
    for (int64_t i = 0; i < forwards; ++i) {
      files.write(forward_number(model, i));
      ++counters.forwards;
    }
    files.close(counters, {});
    return undisturbed_[forwards] = read_run(config.output_dir, config.task);
  }

  std::string run(const std::string& name = "") const { return config_.output_dir + (name.empty() ? "" : "/" + name); }
  std::string journal(const std::string& name) const { return run("moetap/journal/rank0/" + name); }
  std::vector<fs::path> rows_files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(journal(""))) {
      if (entry.path().extension() == ".rows") files.push_back(entry.path());
    }
    return files;
  }
  nlohmann::json manifest() const { return parse_file(run("moetap/manifest.json")); }

  void expect_run_of(int64_t forwards) {
    const auto contents = read_run(config_.output_dir, config_.task);
    EXPECT_EQ(contents.log.size(), static_cast<size_t>(2 * forwards));
    EXPECT_EQ(difference(contents, undisturbed(forwards)), "");
    EXPECT_TRUE(fs::exists(run("rank0_metric_eval_done.txt")));
    EXPECT_FALSE(fs::exists(run("moetap/journal")));
  }

  TemporaryFolder folder_;
  Config config_ = test_config();
  std::map<int64_t, RunContents> undisturbed_;
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

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

// A frame of the journal: its kind, and where in the file it lies, in bytes.
struct PlacedFrame {
  uint32_t kind = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

std::vector<PlacedFrame> frames_of(const std::string& path) {
  std::vector<PlacedFrame> placed;
  FrameReader frames(path);
  int64_t begin = 0;
  while (const auto frame = frames.next()) {
    placed.push_back({frame->kind, begin, frames.whole_bytes()});
    begin = frames.whole_bytes();
  }
  return placed;
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
      ASSERT_EQ(recovery.errors, std::vector<std::string>{}) << "cut at " << cut;
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
  // As if the process had died between the rename of each shard and the removal of its .rows file.
  int shards = 0;
  for (const auto& file : rows_files()) {
    const std::string shard = run("moetap/dump/rank0/" + file.stem().string() + ".safetensors");
    fs::create_directories(run("moetap/dump/rank0"));
    ShardRows::reopen(file.string(), kMaxShardBytes)->write_shard(shard);
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
    auto rows = ShardRows::reopen(file.string(), kMaxShardBytes);
    fs::create_directories(run("moetap/dump/rank0"));
    rows->write_shard(run("moetap/dump/rank0/" + file.stem().string() + ".safetensors"));
    rows->remove();
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

TEST_F(RunRecovery, ResumeGoesOnWhereTheRunEnded) {
  write_and_die(0, 5);
  // The last frame is torn, so its forward is recorded again.
  fs::resize_file(journal("forwards.frames"), fs::file_size(journal("forwards.frames")) - 7);
  config_.resume = true;
  config_.on_overflow = OnOverflow::kDrop;  // how to record may change
  RunFiles files(config_);
  const auto resumed = files.resumed();
  EXPECT_TRUE(resumed.resumed);
  EXPECT_EQ(resumed.next_forward, 4);
  EXPECT_EQ(resumed.next_sample, 8);
  EXPECT_EQ(resumed.samples, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  const auto model = three_layers("another process");
  files.add_model(model);
  Counters counters;
  for (int64_t i = 4; i < kForwards; ++i) {
    files.write(forward_number(model, i));
    ++counters.forwards;
    counters.tokens += 6;
  }
  files.close(counters, {});
  expect_run_of(kForwards);
  EXPECT_EQ(manifest().at("resumed"), 1);
  EXPECT_EQ(manifest().at("counters").at("forwards"), kForwards);
  EXPECT_EQ(manifest().at("counters").at("tokens"), 6 * kForwards);
  EXPECT_FALSE(manifest().contains("recovered"));
  EXPECT_FALSE(manifest().contains("other_models")) << "the same model again";
  EXPECT_EQ(manifest().at("hooks").at(1).at("run_layer"), "1");
}

TEST_F(RunRecovery, ResumedTwiceAndThenRecovered) {
  config_.resume = true;  // there is no run to resume: a new one begins
  write_and_die(0, 3);
  write_and_die(3, 6, "second");
  write_and_die(6, 9, "third");
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.errors, std::vector<std::string>{});
  expect_run_of(9);
  EXPECT_EQ(manifest().at("resumed"), 2);
}

TEST_F(RunRecovery, ResumeDoesForwardsAnewWhoseRowsAreMissing) {
  write_and_die(0, 6);
  const auto frames = frames_of(journal("vision_tower-000000.rows"));
  fs::resize_file(journal("vision_tower-000000.rows"), static_cast<uintmax_t>(frames[frames.size() - 2].end - 3));
  config_.resume = true;
  {
    RunFiles files(config_);
    EXPECT_EQ(files.resumed().next_forward, 4);
  }
  write_and_die(4, 6, "again");
  recover_run(run());
  expect_run_of(6);
}

TEST_F(RunRecovery, ResumeNamesTheKeyThatDiffers) {
  write_and_die(0, 2);
  config_.resume = true;
  config_.probe_tokens = 3;
  EXPECT_EQ(error_of([&] { RunFiles files(config_); }),
            "resume: key \"probe_tokens\" is 3, the run in " + run() + " was begun with 40");
  config_.probe_tokens = test_config().probe_tokens;
  config_.samples = folder_.file("samples.jsonl");
  write_text_file(config_.samples, "{}\n");
  EXPECT_NE(error_of([&] { RunFiles files(config_); }).find("resume: key \"samples\""), std::string::npos);
  config_.samples.clear();
  recover_run(run());
  expect_run_of(2);
}

TEST_F(RunRecovery, AFinishedRunIsNotResumed) {
  write_and_die(0, 2);
  recover_run(run());
  config_.resume = true;
  EXPECT_EQ(error_of([&] { RunFiles files(config_); }),
            run() +
                ": already holds a run that is finished, there is nothing to resume; name another output_dir, or "
                "remove this one");
}

TEST_F(RunRecovery, AnUnfinishedRunHasFilesAndGoesOn) {
  {
    RunFiles files(config_);
    const auto model = three_layers();
    files.add_model(model);
    for (int64_t i = 0; i < 3; ++i) files.write(forward_number(model, i));
    files.leave_unfinished();
    files.close({}, {});
  }
  EXPECT_EQ(parse_file(run("log_metrics.json")).at("logs").size(), 6u);
  EXPECT_FALSE(fs::exists(run("rank0_metric_eval_done.txt")));
  config_.resume = true;
  write_and_die(3, 5, "second");
  recover_run(run());
  expect_run_of(5);
}

TEST_F(RunRecovery, ALostForwardIsCountedAfterAResumeToo) {
  {
    RunFiles files(config_);
    const auto model = three_layers();
    files.add_model(model);
    files.write(forward_number(model, 0));
    ForwardRecord bad = forward_number(model, 1);
    bad.routers[0].hook = 77;
    EXPECT_THROW(files.write(bad), RecordError);
    ForwardRecord next = forward_number(model, 2);
    next.unwritten_before = 1;
    files.write(next);
  }
  config_.resume = true;
  {
    RunFiles files(config_);
    EXPECT_EQ(files.resumed().next_forward, 3);
    const auto model = three_layers("second");
    files.add_model(model);
    files.write(forward_number(model, 3));
    Counters counters;
    counters.forwards = 1;
    files.count(counters);
    files.flush();
  }
  {
    RunFiles files(config_);
    EXPECT_EQ(files.resumed().next_forward, 4);
    files.leave_unfinished();
    files.close({}, {});
    EXPECT_EQ(manifest().at("counters").at("forwards"), 4);
    EXPECT_EQ(manifest().at("counters").at("unwritten"), 1);
  }
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.errors, std::vector<std::string>{});
  EXPECT_EQ(recovery.ranks.at(0).forwards, 3);
  EXPECT_EQ(recovery.ranks.at(0).note.lost_forwards, 0);
  EXPECT_EQ(manifest().at("counters").at("forwards"), 4);
  EXPECT_EQ(manifest().at("counters").at("unwritten"), 1);
}

TEST_F(RunRecovery, TheCountOfARunThatIsDoneHoldsForwardsLostBeforeAResume) {
  {
    RunFiles files(config_);
    const auto model = three_layers();
    files.add_model(model);
    // Of the numbers 0 to 4: 1 was lost, 2 dropped, 3 aborted. Two forwards after 4 were lost with the full disk.
    files.write(forward_number(model, 0));
    ForwardRecord newest = forward_number(model, 4);
    newest.unwritten_before = 1;
    files.write(newest);
    Counters counters;
    counters.forwards = 5;
    counters.unwritten = 3;
    counters.dropped = 1;
    counters.aborted = 1;
    files.count(counters);
    files.flush();
  }
  config_.resume = true;
  RunFiles files(config_);
  files.close({}, {});
  EXPECT_EQ(manifest().at("counters").at("forwards"), 3);
  EXPECT_EQ(manifest().at("counters").at("unwritten"), 1);
}

// Process 1 records well and dies; in process 2 every hook stops at its first forward.
TEST_F(RunRecovery, ARunWhoseHooksAllStoppedAfterAResumeIsNotDone) {
  write_and_die(0, 2);
  config_.resume = true;
  {
    RunFiles files(config_);
    const auto model = three_layers("second");
    files.add_model(model);
    ForwardRecord silent = forward_number(model, 2);
    silent.routers.clear();
    files.write(silent);
    Counters counters;
    counters.forwards = 1;
    counters.called_hooks = counters.failed_hooks = 3;
    files.count(counters);
    files.flush();
  }
  const auto recovery = recover_run(run());
  const std::string line = "every hook stopped after a failure, so the run is not marked as done; \"notices\" in " +
                           run("moetap/manifest.json") + " say why";
  EXPECT_EQ(recovery.errors, (std::vector<std::string>{line}));
  ASSERT_EQ(recovery.ranks.size(), 1u);
  EXPECT_EQ(recovery.ranks[0].not_done, line);
  EXPECT_EQ(parse_file(run("log_metrics.json")).at("logs").size(), 6u);
  EXPECT_FALSE(fs::exists(run("rank0_metric_eval_done.txt")));
  // Nothing writes over it, and it can be recovered again or resumed.
  config_.resume = false;
  EXPECT_NE(error_of([&] { RunFiles files(config_); }).find("holds the journal of a run that did not finish"),
            std::string::npos);
  EXPECT_EQ(recover_run(run()).errors, (std::vector<std::string>{line}));
  config_.resume = true;
  {
    RunFiles files(config_);
    const auto model = three_layers("third");
    files.add_model(model);
    files.write(forward_number(model, 3));
    Counters counters;
    counters.forwards = 1;
    counters.called_hooks = 3;
    files.count(counters);
    files.flush();
  }
  EXPECT_EQ(recover_run(run()).errors, std::vector<std::string>{});
  EXPECT_TRUE(fs::exists(run("rank0_metric_eval_done.txt")));
}

// The working directory while it lives.
class WorkingDirectory {
 public:
  explicit WorkingDirectory(const fs::path& path) : before_(fs::current_path()) {
    fs::create_directories(path);
    fs::current_path(path);
  }
  ~WorkingDirectory() { fs::current_path(before_); }

 private:
  fs::path before_;
};

TEST_F(RunRecovery, ResumeComparesPathsAndNotTheirText) {
  config_.hooks = "spec.json";
  {
    const WorkingDirectory in(folder_.file("first"));
    write_and_die(0, 2);
  }
  config_.resume = true;
  {
    const WorkingDirectory in(folder_.file("second"));
    EXPECT_EQ(error_of([&] { RunFiles files(config_); }),
              "resume: key \"hooks\" is \"" + folder_.file("second/spec.json") + "\", the run in " + run() +
                  " was begun with \"" + folder_.file("first/spec.json") + "\"");
  }
  config_.hooks = folder_.file("first/spec.json");
  write_and_die(2, 3, "second");
  recover_run(run());
  EXPECT_EQ(parse_file(run("log_metrics.json")).at("logs").size(), 6u);
  EXPECT_EQ(manifest().at("config").at("hooks"), "spec.json") << "as the user gave it";
}

TEST_F(RunRecovery, AFirstFrameThatIsNotMoetapsIsRefusedInOneLine) {
  write_and_die(0, 1);
  fs::remove(journal("forwards.frames"));
  FrameLog(journal("forwards.frames")).append(kRunStarted, R"({"schema_version": 3})");
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
    EXPECT_NE(error_of([&] { files.write(record); }), "");
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
  EXPECT_EQ(error_of([&] { recover_run(folder_.file("nowhere")); }),
            folder_.file("nowhere") + ": there is no such directory; name the directory of a run");
  fs::create_directories(run());
  EXPECT_EQ(error_of([&] { recover_run(run()); }), run() + ": holds no run, nothing to recover");
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
