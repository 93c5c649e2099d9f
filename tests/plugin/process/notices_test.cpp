#include "plugin/process/notices.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace moetap::plugin {
namespace {

class NoticesTest : public ::testing::Test {
 protected:
  ~NoticesTest() override { set_notice_handler({}); }

  static std::string on_stderr(const std::string& line) {
    testing::internal::CaptureStderr();
    notify(line);
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(NoticesTest, GoToStderrUnlessAHandlerTakesThem) {
  EXPECT_EQ(on_stderr("50 % lost"), "moetap: 50 % lost\n");
  std::vector<std::string> lines;
  set_notice_handler([&](const std::string& line) { lines.push_back(line); });
  EXPECT_EQ(on_stderr("a"), "");
  EXPECT_EQ(on_stderr("b"), "");
  EXPECT_EQ(lines, (std::vector<std::string>{"a", "b"}));
  set_notice_handler({});
  EXPECT_EQ(on_stderr("c"), "moetap: c\n");
  EXPECT_EQ(lines.size(), 2u);
}

TEST_F(NoticesTest, AHandlerThatThrowsLosesNoLine) {
  set_notice_handler([](const std::string&) { throw std::runtime_error("the log is full"); });
  EXPECT_EQ(on_stderr("a"), "moetap: a\n");
  EXPECT_EQ(on_stderr("b"), "moetap: b\n");
}

TEST_F(NoticesTest, AHandlerIsCalledOnceAtATime) {
  constexpr int kThreads = 4;
  constexpr int kLines = 1000;
  int64_t lines = 0;  // guarded by nothing but the promise
  bool inside = false;
  bool overlap = false;
  set_notice_handler([&](const std::string&) {
    overlap = overlap || inside;
    inside = true;
    ++lines;
    inside = false;
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([] {
      for (int line = 0; line < kLines; ++line) notify("line");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines, int64_t{kThreads} * kLines);
  EXPECT_FALSE(overlap);
}

TEST_F(NoticesTest, AChildForkedWithinAHandlerCanNotify) {
  std::mutex mutex;
  std::condition_variable changed;
  bool entered = false;
  bool done = false;
  set_notice_handler([&](const std::string& line) {
    if (line != "wait") return;
    std::unique_lock lock(mutex);
    entered = true;
    changed.notify_all();
    changed.wait(lock, [&] { return done; });
  });
  std::thread other([] { notify("wait"); });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return entered; });
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);  // a child that waits for a lock ends by the signal
    notify("line");
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  {
    const std::lock_guard lock(mutex);
    done = true;
    changed.notify_all();
  }
  other.join();
}

}  // namespace
}  // namespace moetap::plugin
