#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "plugin/records/config.h"
#include "tests/plugin/support/run_contents.h"

namespace moetap::plugin {

/// Starts a child process that runs `body` and ends without this process's exit handlers. Killed with this process.
inline pid_t start(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The child's notices would mix with the test's output.
  if (std::freopen("/dev/null", "w", stderr) == nullptr) ::_exit(3);
  try {
    body();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    std::fflush(stdout);
    ::_exit(2);
  }
  ::_exit(0);
}

/// Exit status; -1: killed.
inline int wait_for(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Records the forwards of [0, end) in a session. `flushed` is called with the number of forwards flushed so far.
using RecordForwards = void (*)(const Config& config, int64_t end, const std::function<void(int64_t)>& flushed);

/// Processes that record and are killed. They are forked from this one, which has loaded LibTorch but computes nothing:
/// so it has no threads that the children would lack.
class KilledProcess : public ::testing::Test {
 protected:
  explicit KilledProcess(RecordForwards record) : record_(record) { at::set_num_threads(1); }

  /// Records until it is killed after `life`; returns the number of forwards that it last reported as flushed.
  int64_t record_until_killed(const Config& config, std::chrono::microseconds life) {
    int reports[2];
    if (::pipe(reports) != 0) throw std::runtime_error("no pipe");
    const pid_t child = start([&] {
      record_(config, /*end=*/1 << 20, [&](int64_t flushed) {
        if (::write(reports[1], &flushed, sizeof(flushed)) < 0) ::_exit(4);
      });
    });
    ::close(reports[1]);
    // `life` begins at the first flush: before that the child compiles the model.
    int64_t flushed = 0;
    EXPECT_EQ(::read(reports[0], &flushed, sizeof(flushed)), static_cast<ssize_t>(sizeof(flushed)));
    std::this_thread::sleep_for(life);
    ::kill(child, SIGKILL);
    EXPECT_EQ(wait_for(child), -1);
    for (int64_t next = 0; ::read(reports[0], &next, sizeof(next)) == static_cast<ssize_t>(sizeof(next));)
      flushed = next;
    ::close(reports[0]);
    return flushed;
  }

  /// What a process writes that records `forwards` forwards and closes. `config`: always the same.
  const RunContents& undisturbed(Config config, int64_t forwards) {
    const auto known = undisturbed_.find(forwards);
    if (known != undisturbed_.end()) return known->second;
    config.output_dir = folder_.file("undisturbed");
    config.resume = false;
    std::filesystem::remove_all(config.output_dir);
    EXPECT_EQ(wait_for(start([&] { record_(config, forwards, [](int64_t) {}); })), 0);
    return undisturbed_[forwards] = read_run(config.output_dir);
  }

  const RecordForwards record_;
  TemporaryFolder folder_;

 private:
  std::map<int64_t, RunContents> undisturbed_;
};

}  // namespace moetap::plugin
