#include "analysis/devices/own_file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace moetap::analysis {
namespace {

TEST(OwnFile, OfAProgramIsTheProgram) {
  EXPECT_TRUE(is_in_program());
  EXPECT_EQ(own_file(), std::filesystem::canonical("/proc/self/exe"));
}

// As a shell starts a program that it found in PATH.
TEST(OwnFile, OfAProgramThatWasStartedByItsBareName) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::execl("/proc/self/exe", "a_bare_name", "--gtest_filter=OwnFile.OfAProgramIsTheProgram", nullptr);
    ::_exit(127);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace moetap::analysis
