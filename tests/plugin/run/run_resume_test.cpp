// A run that a process left is resumed: the files are those of an undisturbed run.
#include <gtest/gtest.h>

#include <stdexcept>

#include "plugin/run/run_recovery.h"
#include "tests/plugin/run/killed_run.h"
#include "tests/plugin/support/error_of.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

class RunResume : public KilledRun {};

TEST_F(RunResume, ResumeGoesOnWhereTheRunEnded) {
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

TEST_F(RunResume, ResumedTwiceAndThenRecovered) {
  config_.resume = true;  // there is no run to resume: a new one begins
  write_and_die(0, 3);
  write_and_die(3, 6, "second");
  write_and_die(6, 9, "third");
  const auto recovery = recover_run(run());
  ASSERT_EQ(recovery.errors, std::vector<std::string>{});
  expect_run_of(9);
  EXPECT_EQ(manifest().at("resumed"), 2);
}

TEST_F(RunResume, ResumeDoesForwardsAnewWhoseRowsAreMissing) {
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

TEST_F(RunResume, ResumeNamesTheKeyThatDiffers) {
  write_and_die(0, 2);
  config_.resume = true;
  config_.probe_tokens = 3;
  EXPECT_EQ(error_of<std::exception>([&] { RunFiles files(config_); }),
            "resume: key \"probe_tokens\" is 3, the run in " + run() + " was begun with 40");
  config_.probe_tokens = test_config().probe_tokens;
  config_.samples = folder_.file("samples.jsonl");
  write_text_file(config_.samples, "{}\n");
  EXPECT_NE(error_of<std::exception>([&] { RunFiles files(config_); }).find("resume: key \"samples\""),
            std::string::npos);
  config_.samples.clear();
  recover_run(run());
  expect_run_of(2);
}

TEST_F(RunResume, AFinishedRunIsNotResumed) {
  write_and_die(0, 2);
  recover_run(run());
  config_.resume = true;
  EXPECT_EQ(error_of<std::exception>([&] { RunFiles files(config_); }),
            run() +
                ": already holds a run that is finished, there is nothing to resume; name another output_dir, or "
                "remove this one");
}

TEST_F(RunResume, AnUnfinishedRunHasFilesAndGoesOn) {
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

TEST_F(RunResume, ALostForwardIsCountedAfterAResumeToo) {
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

TEST_F(RunResume, TheCountOfARunThatIsDoneHoldsForwardsLostBeforeAResume) {
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
TEST_F(RunResume, ARunWhoseHooksAllStoppedAfterAResumeIsNotDone) {
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
  EXPECT_NE(
      error_of<std::exception>([&] { RunFiles files(config_); }).find("holds the journal of a run that did not finish"),
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

TEST_F(RunResume, ResumeComparesPathsAndNotTheirText) {
  config_.hooks = "spec.json";
  {
    const WorkingDirectory in(folder_.file("first"));
    write_and_die(0, 2);
  }
  config_.resume = true;
  {
    const WorkingDirectory in(folder_.file("second"));
    EXPECT_EQ(error_of<std::exception>([&] { RunFiles files(config_); }),
              "resume: key \"hooks\" is \"" + folder_.file("second/spec.json") + "\", the run in " + run() +
                  " was begun with \"" + folder_.file("first/spec.json") + "\"");
  }
  config_.hooks = folder_.file("first/spec.json");
  write_and_die(2, 3, "second");
  recover_run(run());
  EXPECT_EQ(parse_file(run("log_metrics.json")).at("logs").size(), 6u);
  EXPECT_EQ(manifest().at("config").at("hooks"), "spec.json") << "as the user gave it";
}

}  // namespace
}  // namespace moetap::plugin
