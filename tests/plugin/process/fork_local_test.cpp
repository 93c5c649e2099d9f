#include "plugin/process/fork_local.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <latch>
#include <mutex>
#include <thread>

namespace moetap::plugin {
namespace {

struct Guarded {
  std::mutex mutex;
  int value = 1;
};

struct Other {
  int value = 1;
};

/// True if `check` holds in a child process.
bool holds_in_child(const std::function<bool()>& check) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(check() ? 0 : 1);
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(ForkLocal, IsOneObjectOfItsTypeInAProcess) {
  Guarded& first = fork_local<Guarded>();
  EXPECT_EQ(&first, &fork_local<Guarded>());
  Guarded* elsewhere = nullptr;
  std::thread([&] { elsewhere = &fork_local<Guarded>(); }).join();
  EXPECT_EQ(elsewhere, &first);
  fork_local<Other>().value = 5;
  EXPECT_EQ(first.value, 1);
}

TEST(ForkLocal, AChildHasANewOne) {
  fork_local<Guarded>().value = 7;
  EXPECT_TRUE(holds_in_child([] {
    if (fork_local<Guarded>().value != 1) return false;
    fork_local<Guarded>().value = 8;
    // So has a child of the child.
    return holds_in_child([] { return fork_local<Guarded>().value == 1; }) && fork_local<Guarded>().value == 8;
  }));
  EXPECT_EQ(fork_local<Guarded>().value, 7);
  fork_local<Guarded>().value = 1;
}

TEST(ForkLocal, AChildCanLockWhatAnotherThreadOfTheParentHeld) {
  std::latch held(1);
  std::latch done(1);
  std::thread holder([&] {
    const std::lock_guard lock(fork_local<Guarded>().mutex);
    held.count_down();
    done.wait();
  });
  held.wait();
  EXPECT_TRUE(holds_in_child([] { return fork_local<Guarded>().mutex.try_lock(); }));
  done.count_down();
  holder.join();
}

}  // namespace
}  // namespace moetap::plugin
