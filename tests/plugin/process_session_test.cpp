// The session of a process, and the C header in front of it.
#include "plugin/process_session.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "plugin/moetap.h"
#include "plugin/operators.h"
#include "plugin/process/notices.h"
#include "plugin/session/forward_recorder.h"
#include "tests/plugin/support/recorded_run.h"
#include "tests/plugin/support/synthetic_forward.h"

namespace moetap::plugin {
namespace {

/// One forward of a sequence of 3 tokens that all go to `expert`, as an instrumented model begins it.
bool forward(const std::string& description, int64_t expert = 0) {
  const auto binding = find_binding(description);
  if (!binding) return false;
  ForwardRecorder recorder(binding, "forward", c10::List<std::optional<at::Tensor>>({at::zeros({1, 3}, at::kLong)}));
  recorder.router(0, {at::zeros({3, 4}), {}, {at::full({3, 1}, expert, at::kLong)}, {}, -1, "slots"});
  recorder.end();
  return true;
}

/// A forward on each of `num_threads` threads, which begin together.
void forward_at_once(const std::string& description, int num_threads) {
  std::barrier together(num_threads);
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) {
    threads.emplace_back([&] {
      together.arrive_and_wait();
      forward(description);
    });
  }
  for (auto& thread : threads) thread.join();
}

class ProcessSessionTest : public testing::Test {
 protected:
  std::string config(const std::string& keys = "") const {
    return "{\"output_dir\": \"" + run + "\"" + (keys.empty() ? "" : ", " + keys) + "}";
  }
  nlohmann::json summary(const std::string& suffix = "") const {
    return parse_file(run + suffix + "/moetap/summary.json");
  }

  const TemporaryFolder folder;
  const std::string run = folder.file("run");
};

TEST_F(ProcessSessionTest, TakesTheForwardsThatNoSessionAttached) {
  const std::string model = to_text(gates(1));
  EXPECT_FALSE(forward(model));
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  EXPECT_STREQ(moetap_last_error(), "");
  EXPECT_TRUE(forward(model));
  EXPECT_TRUE(forward(model));
  moetap_counters counters{};
  counters.struct_size = sizeof(counters);
  ASSERT_EQ(moetap_flush(session), 0);
  ASSERT_EQ(moetap_get_counters(session, &counters), 0);
  EXPECT_EQ(counters.forwards, 2);
  EXPECT_EQ(counters.tokens, 6);
  EXPECT_EQ(moetap_close(session), 0);
  EXPECT_FALSE(forward(model));
  EXPECT_EQ(summary().at("forwards"), 2);
}

TEST_F(ProcessSessionTest, EachModelHasItsDirectory) {
  const std::string first = to_text(gates(1)), second = to_text(gates(2));
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  testing::internal::CaptureStderr();
  forward(first, 1);
  forward(second, 2);
  forward(first, 1);
  EXPECT_EQ(moetap_close(session), 0);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("records into " + run + "-2\n"), std::string::npos);
  EXPECT_EQ(summary().at("forwards"), 2);
  EXPECT_EQ(summary().at("/components/language_model/0/selected_count"_json_pointer), nlohmann::json({0, 6, 0, 0}));
  EXPECT_EQ(summary("-2").at("forwards"), 1);
  EXPECT_EQ(summary("-2").at("/components/language_model/0/selected_count"_json_pointer), nlohmann::json({0, 0, 3, 0}));
}

TEST_F(ProcessSessionTest, LabelsAndValuesReachTheLog) {
  const std::string model = to_text(gates(1));
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  const int64_t sample = 7;
  ASSERT_EQ(moetap_label(session, &sample, 1, 0), 0);
  forward(model);
  ASSERT_EQ(moetap_log(session, "0", "loss", 0.5), 0);
  ASSERT_EQ(moetap_label(session, &sample, 1, 1), 0);
  forward(model);
  ASSERT_EQ(moetap_clear_label(session), 0);
  forward(model);
  EXPECT_EQ(moetap_close(session), 0);
  const auto logs = parse_file(run + "/log_metrics.json").at("logs");
  ASSERT_EQ(logs.size(), 2u);
  EXPECT_EQ(logs[0].at("doc_id"), 7);
  EXPECT_EQ(logs[0].at("/logs_metrics_vision/0/0/0/loss"_json_pointer), 0.5);
  EXPECT_EQ(logs[0].at("/logs_metrics_vision/0/0/0/dist_experts_top2/0"_json_pointer), 6);
  EXPECT_EQ(logs[1].at("doc_id"), 8);
  const auto phases = summary().at("phases");
  EXPECT_EQ(phases.at("/prompt/forwards"_json_pointer), 2);
  EXPECT_EQ(phases.at("/generation/forwards"_json_pointer), 1);
  EXPECT_EQ(phases.at("/generation/components/language_model/0/tokens"_json_pointer), 3);
}

TEST_F(ProcessSessionTest, APauseHoldsForModelsThatRunLaterToo) {
  const std::string first = to_text(gates(1)), second = to_text(gates(2));
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  forward(first, 1);
  ASSERT_EQ(moetap_pause(session), 0);
  testing::internal::CaptureStderr();
  forward(first, 1);
  forward(second, 2);
  testing::internal::GetCapturedStderr();
  ASSERT_EQ(moetap_resume(session), 0);
  forward(second, 2);
  moetap_counters counters{};
  counters.struct_size = sizeof(counters);
  ASSERT_EQ(moetap_get_counters(session, &counters), 0);
  EXPECT_EQ(counters.forwards, 2);
  EXPECT_EQ(counters.skipped, 2);
  EXPECT_EQ(moetap_close(session), 0);
  EXPECT_EQ(summary().at("forwards"), 1);
  EXPECT_EQ(summary("-2").at("forwards"), 1);
  EXPECT_EQ(moetap_pause(nullptr), -1);
}

TEST_F(ProcessSessionTest, SaysWhatIsWrong) {
  EXPECT_EQ(moetap_open("{}"), nullptr);
  EXPECT_NE(std::strstr(moetap_last_error(), "output_dir must name a directory"), nullptr) << moetap_last_error();
  EXPECT_EQ(moetap_open("{\"output\": 1}"), nullptr);
  EXPECT_NE(std::strstr(moetap_last_error(), "moetap_open: unknown key \"output\""), nullptr) << moetap_last_error();
  EXPECT_EQ(moetap_open("no json"), nullptr);
  EXPECT_EQ(moetap_label(nullptr, nullptr, 0, 0), -1);
  EXPECT_NE(std::strstr(moetap_last_error(), "session must be"), nullptr) << moetap_last_error();
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  EXPECT_EQ(moetap_open(config().c_str()), nullptr);
  EXPECT_NE(std::strstr(moetap_last_error(), "is open already"), nullptr) << moetap_last_error();
  const int64_t negative = -1;
  EXPECT_EQ(moetap_label(session, &negative, 1, 0), -1);
  EXPECT_EQ(moetap_label(session, nullptr, 1, 0), -1);
  EXPECT_EQ(moetap_log(session, "zero", "x", 1), -1);
  EXPECT_EQ(moetap_log(session, "0", nullptr, 1), -1);
  moetap_counters counters{};
  EXPECT_EQ(moetap_get_counters(session, &counters), -1);
  EXPECT_EQ(moetap_get_counters(session, nullptr), -1);
  EXPECT_EQ(moetap_close(session), 0);
  EXPECT_EQ(moetap_close(nullptr), -1);
}

TEST_F(ProcessSessionTest, CountersServeOlderAndNewerHeaders) {
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  forward(to_text(gates(1)));
  struct {
    moetap_counters known;
    int64_t added_later = 5;
  } newer{};
  newer.known.struct_size = sizeof(newer);
  EXPECT_EQ(moetap_get_counters(session, &newer.known), 0);
  EXPECT_EQ(newer.known.forwards, 1);
  EXPECT_EQ(newer.added_later, 0);
  moetap_counters older{};
  older.struct_size = offsetof(moetap_counters, tokens);
  older.dropped = 77;
  EXPECT_EQ(moetap_get_counters(session, &older), 0);
  EXPECT_EQ(older.forwards, 1);
  EXPECT_EQ(older.dropped, 77);
  // The first version of the header ended before `replayed`.
  moetap_counters first{};
  first.struct_size = offsetof(moetap_counters, replayed);
  EXPECT_EQ(first.struct_size, sizeof(size_t) + 9 * sizeof(int64_t));
  first.replayed = 77;
  EXPECT_EQ(moetap_get_counters(session, &first), 0);
  EXPECT_EQ(first.forwards, 1);
  EXPECT_EQ(first.replayed, 77);
  EXPECT_EQ(moetap_close(session), 0);
}

TEST_F(ProcessSessionTest, ADirectoryThatCannotBeOpenedIsSaidOnce) {
  std::filesystem::create_directories(run + "/moetap/dump/rank0");  // holds a run
  const std::string model = to_text(gates(1));
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  testing::internal::CaptureStderr();
  EXPECT_FALSE(forward(model));
  EXPECT_FALSE(forward(model));
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: " + run +
                ": already holds a run; name another output_dir, or remove this one; the model runs on and is not "
                "recorded\n");
  EXPECT_EQ(moetap_close(session), 0);
  session = moetap_open(config("\"strict\": true").c_str());
  EXPECT_THROW(forward(model), std::runtime_error);
  EXPECT_THROW(forward(model), std::runtime_error);
  EXPECT_EQ(moetap_close(session), 0);
}

TEST_F(ProcessSessionTest, AModelOfASessionThatIsBeingClosedLeavesNoRun) {
  RecordedRun attached;
  const std::string model = attached.bind(gates(1));
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  attached.recording->close();
  EXPECT_FALSE(forward(model));
  EXPECT_FALSE(std::filesystem::exists(run));
  attached.close();  // forgets the model
  EXPECT_TRUE(forward(model));
  EXPECT_EQ(moetap_close(session), 0);
  EXPECT_EQ(summary().at("forwards"), 1);
}

TEST_F(ProcessSessionTest, AForkedChildLeavesTheParentsRunAlone) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer lets a child start no thread when its parent had several: here the child's writer";
#endif
  const std::string model = to_text(gates(1));
  moetap_session* session = moetap_open(config().c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  forward(model);
  EXPECT_EQ(moetap_flush(session), 0);
  // The child has no writer thread, so that what only the writer's stack holds would count as its leak: wait until the
  // writer is idle.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const pid_t child = fork();
  if (child == 0) {
    const bool recorded = forward(model);
    moetap_session* own = moetap_open(("{\"output_dir\": \"" + run + "-child-{pid}\"}").c_str());
    const bool own_recorded = own != nullptr && forward(model) && moetap_close(own) == 0;
    std::exit(!recorded && own_recorded ? 0 : 1);  // with the exit handlers
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  forward(model);
  EXPECT_EQ(moetap_close(session), 0);
  EXPECT_EQ(summary().at("forwards"), 2);
  EXPECT_EQ(summary("-child-" + std::to_string(child)).at("forwards"), 1);
}

TEST_F(ProcessSessionTest, ResumeFindsTheDirectoryOfEachModel) {
  ModelDescription first = gates(1), second = gates(1);
  first.identity = "a";
  second.identity = "b";
  const auto killed = fork();
  if (killed == 0) {
    moetap_session* session = moetap_open(config().c_str());
    const bool recorded = session != nullptr && forward(to_text(first), 1) && forward(to_text(second), 2);
    _exit(recorded && moetap_flush(session) == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(killed, &status, 0), killed);
  ASSERT_EQ(status, 0);
  moetap_session* session = moetap_open(config("\"resume\": true").c_str());
  ASSERT_NE(session, nullptr) << moetap_last_error();
  EXPECT_TRUE(forward(to_text(second), 2));  // in another order
  EXPECT_TRUE(forward(to_text(first), 1));
  EXPECT_EQ(moetap_close(session), 0);
  const auto counts = "/components/language_model/0/selected_count"_json_pointer;
  EXPECT_EQ(summary().at(counts), nlohmann::json({0, 6, 0, 0}));
  EXPECT_EQ(summary("-2").at(counts), nlohmann::json({0, 0, 6, 0}));
}

TEST_F(ProcessSessionTest, ForwardsDuringTheExitOpenNoFurtherRun) {
  const std::string model = to_text(gates(1));
  const pid_t child = fork();
  if (child == 0) {
    static moetap_session* session = moetap_open(config().c_str());
    std::thread([&] {
      while (true) forward(model);
    }).detach();
    moetap_counters counters{};
    counters.struct_size = sizeof(counters);
    while (counters.forwards < 10) moetap_get_counters(session, &counters);
    std::exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(std::filesystem::exists(run + "/rank0_metric_eval_done.txt"));
  EXPECT_FALSE(std::filesystem::exists(run + "-2"));
}

TEST_F(ProcessSessionTest, AFailedExitLeavesTheRunUnfinished) {
  const std::string model = to_text(gates(1));
  for (const int exit_status : {0, 3}) {
    const std::string keys = "{\"output_dir\": \"" + run + std::to_string(exit_status) + "\"}";
    const pid_t child = fork();
    if (child == 0) {
      set_notice_handler([](const std::string&) {});
      static moetap_session* session = moetap_open(keys.c_str());
      std::exit(session != nullptr && forward(model) ? exit_status : 2);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(WEXITSTATUS(status), exit_status);
    const std::string folder = run + std::to_string(exit_status);
    EXPECT_EQ(parse_file(folder + "/moetap/summary.json").at("forwards"), 1);
    EXPECT_EQ(std::filesystem::exists(folder + "/rank0_metric_eval_done.txt"), exit_status == 0);
    EXPECT_EQ(std::filesystem::exists(folder + "/moetap/journal/rank0/forwards.frames"), exit_status != 0);
  }
}

TEST_F(ProcessSessionTest, AFailedExitLeavesAResumedRunUnfinished) {
  const std::string model = to_text(gates(1));
  for (const int exit_status : {1, 0}) {
    const pid_t child = fork();
    if (child == 0) {
      static moetap_session* session = moetap_open(config("\"resume\": true").c_str());
      std::exit(session != nullptr && forward(model) ? exit_status : 2);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), exit_status);
    EXPECT_EQ(std::filesystem::exists(run + "/rank0_metric_eval_done.txt"), exit_status == 0);
  }
  EXPECT_EQ(summary().at("forwards"), 2);
}

TEST_F(ProcessSessionTest, ThreadsThatBeginAtOnceAreAllRecorded) {
  constexpr int kThreads = 8;
  const std::string model = to_text(gates(1));
  for (int attempt = 0; attempt < 20; ++attempt) {
    const std::string folder = run + std::to_string(attempt);
    const pid_t child = fork();
    if (child == 0) {
      ::setenv("MOETAP_OUTPUT_DIR", folder.c_str(), 1);
      forward_at_once(model, kThreads);
      std::exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    EXPECT_EQ(parse_file(folder + "/moetap/summary.json").at("forwards"), kThreads) << attempt;
  }
}

TEST_F(ProcessSessionTest, ThreadsThatBeginAtOnceSayOnceWhatIsWrong) {
  constexpr int kThreads = 4;
  const std::string model = to_text(gates(1));
  for (int attempt = 0; attempt < 50; ++attempt) {
    const pid_t child = fork();
    if (child == 0) {
      static int lines = 0;  // the handler is called by one thread at a time
      set_notice_handler([](const std::string&) { ++lines; });
      ::setenv("MOETAP_CONFIG", folder.file("missing.json").c_str(), 1);
      forward_at_once(model, kThreads);
      ::_exit(lines);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_EQ(WEXITSTATUS(status), 1) << attempt;
  }
}

TEST_F(ProcessSessionTest, TheEnvironmentOpensItWithTheFirstForward) {
  const std::string model = to_text(gates(1));
  const pid_t child = fork();  // the environment is read once a process
  if (child == 0) {
    ::setenv("MOETAP_OUTPUT_DIR", run.c_str(), 1);
    const bool recorded = forward(model);
    static moetap_session* session = moetap_open(nullptr);  // never closed; static: a host that lost it would leak it
    moetap_counters counters{};
    counters.struct_size = sizeof(counters);
    const bool counted = session != nullptr && moetap_get_counters(session, &counters) == 0 && counters.forwards == 1;
    std::exit(recorded && counted ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(summary().at("forwards"), 1);
  EXPECT_TRUE(std::filesystem::exists(run + "/rank0_metric_eval_done.txt"));
}

}  // namespace
}  // namespace moetap::plugin
