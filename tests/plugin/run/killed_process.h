#pragma once

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <thread>

#include "plugin/records/config.h"

namespace moetap::plugin {

// Processes that record and are killed. They are forked from the test's, which has loaded LibTorch but computes
// nothing: so it has no threads that the children would lack.

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

/// Records forwards from where the run stands until `end`; calls `flushed` with the number of forwards flushed so far.
using RecordForwards = std::function<void(const Config&, int64_t end, const std::function<void(int64_t)>& flushed)>;

/// Records in a child process that is killed after `life`; returns the number of forwards that it last reported as
/// flushed.
inline int64_t record_until_killed(const RecordForwards& record, const Config& config, std::chrono::microseconds life) {
  int reports[2];
  if (::pipe(reports) != 0) throw std::runtime_error("no pipe");
  const pid_t child = start([&] {
    record(config, /*end=*/1 << 20, [&](int64_t flushed) {
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
  for (int64_t next = 0; ::read(reports[0], &next, sizeof(next)) == static_cast<ssize_t>(sizeof(next));) flushed = next;
  ::close(reports[0]);
  return flushed;
}

}  // namespace moetap::plugin
