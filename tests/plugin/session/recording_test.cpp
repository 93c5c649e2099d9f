// Sessions beside the graph: the queue, labels, values of the host, threads, failures of the files, fork and exit.
#include "plugin/session/recording.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <numeric>
#include <thread>

#include "plugin/session.h"
#include "plugin/session/forward_recorder.h"
#include "tests/plugin/support/recorded_run.h"

namespace moetap::plugin {
namespace {

at::Tensor ids_of(int64_t batch, int64_t length = 3) {
  return at::zeros({batch, length}, at::kLong);
}

/// One forward of `batch` sequences, all of whose tokens go to `expert`.
void forward(const std::shared_ptr<ModelBinding>& binding, int64_t batch = 1, int64_t expert = 0) {
  const c10::List<std::optional<at::Tensor>> arguments({ids_of(batch), at::Tensor()});
  ForwardRecorder recorder(binding, "forward", arguments);
  recorder.router(0, {at::zeros({batch * 3, 4}), {}, {at::full({batch * 3, 1}, expert, at::kLong)}, {}, -1, "slots"});
  recorder.end();
}

std::shared_ptr<ModelBinding> bind(RecordedRun& run, const ModelDescription& model = gates(1)) {
  return ModelRegistry::get().find(run.bind(model));
}

Config small_queue(OnOverflow on_overflow) {
  Config config;
  config.queue_bytes = 1;  // one record at a time
  config.on_overflow = on_overflow;
  return config;
}

TEST(Recording, DropsAreCountedExactly) {
  RecordedRun run(small_queue(OnOverflow::kDrop));
  const auto binding = bind(run);
  run.collected->hold(true);
  for (int i = 0; i < 10; ++i) {
    forward(binding);
  }
  const auto& records = run.close();
  const auto& counters = run.collected->counters;
  EXPECT_EQ(records.size(), 1u);  // the first fills the queue until it is written
  EXPECT_EQ(counters.forwards, 1);
  EXPECT_EQ(counters.dropped, 9);
  EXPECT_EQ(counters.tokens, 3);
}

TEST(Recording, DroppedForwardsUseUpTheirSamples) {
  RecordedRun run(small_queue(OnOverflow::kDrop));
  const auto binding = bind(run);
  run.collected->hold(true);
  forward(binding, 2);
  forward(binding, 3);
  run.collected->hold(false);
  run.recording->flush();
  forward(binding, 1);
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].samples, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(records[1].samples, (std::vector<int64_t>{5}));
  EXPECT_EQ(records[1].index, 2);  // the dropped one counts, so that a host that resumes finds its place
}

TEST(Recording, BlocksWhileTheQueueIsFull) {
  RecordedRun run(small_queue(OnOverflow::kBlock));
  const auto binding = bind(run);
  run.collected->hold(true);
  auto forwards = std::async(std::launch::async, [&] {
    for (int i = 0; i < 5; ++i) {
      forward(binding);
    }
  });
  EXPECT_EQ(forwards.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  run.collected->hold(false);
  forwards.get();
  EXPECT_EQ(run.close().size(), 5u);
  EXPECT_EQ(run.collected->counters.dropped, 0);
}

TEST(Recording, LabelsHoldUntilTheyAreChanged) {
  RecordedRun run;
  const auto binding = bind(run);
  auto& label = run.recording->threads().this_thread().label;
  forward(binding);
  label = std::make_shared<const ForwardLabel>(ForwardLabel{{7, 9}, false});
  forward(binding, 2);
  label = std::make_shared<const ForwardLabel>(ForwardLabel{{7, 9}, true});
  forward(binding, 2);
  forward(binding, 1);  // another number of sequences than the label has
  label.reset();
  forward(binding);
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 5u);
  EXPECT_EQ(records[0].samples, (std::vector<int64_t>{0}));
  EXPECT_FALSE(records[0].labelled);
  EXPECT_EQ(records[1].samples, (std::vector<int64_t>{7, 9}));
  EXPECT_TRUE(records[1].labelled);
  EXPECT_FALSE(records[1].generation);
  EXPECT_TRUE(records[2].generation);
  EXPECT_EQ(records[3].samples, (std::vector<int64_t>{10}));
  EXPECT_FALSE(records[3].labelled);
  EXPECT_EQ(records[4].samples, (std::vector<int64_t>{11}));
  EXPECT_EQ(run.collected->counters.label_mismatches, 1);
}

TEST(Recording, SessionsAndModelsStayApart) {
  RecordedRun first;
  RecordedRun second;
  const auto of_first = bind(first);
  const auto of_second = bind(second);
  forward(of_first, 1, 1);
  forward(of_second, 1, 2);
  forward(of_second, 1, 3);
  EXPECT_EQ(first.close().size(), 1u);
  ASSERT_EQ(second.close().size(), 2u);
  EXPECT_EQ(second.collected->records[1].samples, (std::vector<int64_t>{1}));
  EXPECT_EQ(first.collected->models, std::vector<std::string>{of_first->model()->instance});
  EXPECT_EQ(first.collected->records[0].routers[0].selected[0].item<int64_t>(), 1);
}

TEST(Recording, ThreadsKeepTheirForwards) {
  RecordedRun run;
  const auto binding = bind(run);
  std::vector<std::thread> threads;
  constexpr int64_t kForwards = 200;
  for (int64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int64_t i = 0; i < kForwards; ++i) {
        run.recording->threads().label({{thread * kForwards + i}, false});
        forward(binding, 1, thread);
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  const auto& records = run.close();
  ASSERT_EQ(records.size(), 4u * kForwards);
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].index, static_cast<int64_t>(i));
    const auto expert = records[i].samples.at(0) / kForwards;
    EXPECT_TRUE(at::equal(records[i].routers.at(0).selected, at::full({3, 1}, expert, at::kLong)));
  }
}

TEST(Recording, FilesThatFailAreReportedOnce) {
  RecordedRun run;
  const auto binding = bind(run);
  run.collected->fail_at = 2;
  testing::internal::CaptureStderr();
  for (int i = 0; i < 6; ++i) {
    forward(binding);
  }
  EXPECT_EQ(run.close().size(), 2u);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: records.bin: no space left on device; free some; nothing more is recorded, the model runs on\n");
  EXPECT_EQ(run.recording->write_error(), "records.bin: no space left on device; free some");
  EXPECT_EQ(run.collected->counters.unwritten, 4);
  EXPECT_EQ(run.collected->counters.forwards, 6);
  EXPECT_EQ(run.collected->closes, 1);
}

TEST(Recording, TheProbeDoesNotCountForwardsThatAreLost) {
  RecordedRun run;
  const auto binding = bind(run);
  run.collected->fail_at = 1;
  testing::internal::CaptureStderr();
  forward(binding);
  forward(binding);
  run.close();
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(binding->routers()->probed->of(0), 3);
}

TEST(Recording, CloseIsOnceAndForwardsThatEndLaterAreDropped) {
  RecordedRun run;
  const auto binding = bind(run);
  ForwardRecorder late(binding, "forward", c10::List<std::optional<at::Tensor>>());
  run.close();
  run.recording->close();
  EXPECT_EQ(run.collected->closes, 1);
  EXPECT_NO_THROW(late.end());
  EXPECT_EQ(run.recording->counters().dropped, 1);
  EXPECT_FALSE(run.recording->accepts());
  EXPECT_NO_THROW(run.recording->flush());
}

TEST(Recording, FlushWaitsForEverythingBefore) {
  RecordedRun run;
  const auto binding = bind(run);
  for (int i = 0; i < 50; ++i) {
    forward(binding);
  }
  run.recording->flush();
  {
    const std::lock_guard lock(run.collected->mutex);
    EXPECT_EQ(run.collected->records.size(), 50u);
  }
}

TEST(Recording, AForkedChildMayAskItsParentsSession) {
  RecordedRun run;
  const auto binding = bind(run);
  std::atomic<bool> stop = false;
  std::thread poller([&] {
    while (!stop) run.recording->counters();
  });
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      ::alarm(20);  // ends a child that waits for a lock of its parent's
      const bool silent = run.recording->counters().forwards == 0 && !run.recording->write_error();
      run.recording->notice("nobody listens");
      _exit(silent ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  stop = true;
  poller.join();
}

TEST(Recording, AChildProcessRecordsNothing) {
  RecordedRun run;
  const auto binding = bind(run);
  forward(binding);
  const pid_t child = fork();
  if (child == 0) {
    const bool left_alone = !run.recording->accepts();
    run.recording->flush();
    run.recording->close();
    _exit(left_alone && run.collected->closes == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(run.close().size(), 1u);
}

class ExitSink final : public RecordSink {
 public:
  void add_model(std::shared_ptr<const ModelDescription>) override {}
  void write(const ForwardRecord&) override { ++records_; }
  void flush() override {}
  void close(const Counters&, const RunTimes&) override {
    const auto line = "closed after " + std::to_string(records_) + "\n";
    std::fputs(line.c_str(), stderr);
  }

 private:
  int records_ = 0;
};

TEST(RecordingDeathTest, ExitWithoutCloseCompletesTheFiles) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        static auto* session = new Session(Config{}, std::make_unique<ExitSink>());
        static_cast<void>(session);
        std::exit(0);
      },
      testing::ExitedWithCode(0), "closed after 0");
}

TEST(Session, RefusesWhatCannotBe) {
  Config config;
  EXPECT_THROW(Session{config}, std::invalid_argument);  // no output_dir
  Session session(config, std::make_unique<ExitSink>());
  EXPECT_THROW(session.label({}), std::invalid_argument);
  EXPECT_THROW(session.label({{-1}, false}), std::invalid_argument);
  EXPECT_THROW(session.log("layer 0", "x", 1.0), std::invalid_argument);
  EXPECT_THROW(session.log("0", "", 1.0), std::invalid_argument);
  EXPECT_NO_THROW(session.log("mm_projector", "x", 1.0));
}

}  // namespace
}  // namespace moetap::plugin
