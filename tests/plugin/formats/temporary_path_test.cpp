#include "plugin/formats/temporary_path.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

/// The number of a process that has ended.
pid_t dead_process() {
  const pid_t process = ::fork();
  if (process == 0) ::_exit(0);
  ::waitpid(process, nullptr, 0);
  return process;
}

TEST(TemporaryName, IsTakenApart) {
  const auto name = parse_temporary_name("out.csv.tmp-12-3");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->path, "out.csv");
  EXPECT_EQ(name->process, 12);
  EXPECT_EQ(name->number, 3);
  EXPECT_EQ(parse_temporary_name("a.tmp-1-0.tmp-2-5")->path, "a.tmp-1-0");
  for (const char* other : {"out", ".tmp-1-0", "out.tmp-1", "out.tmp-x-0", "out.tmp-0-0", "out.tmp--1-0", "out.tmp-1-",
                            "out.tmp-1-0x", "out.tmp-1-0.old", "out.tmp-99999999999999-0"}) {
    EXPECT_FALSE(parse_temporary_name(other).has_value()) << other;
  }
  const std::string own = temporary_path("/a/b", 7);
  EXPECT_EQ(parse_temporary_name(own)->path, "/a/b");
  EXPECT_EQ(parse_temporary_name(own)->process, ::getpid());
}

TEST(LeftTemporaries, OfDeadProcessesGo) {
  const fs::path folder = fs::temp_directory_path() / ("moetap-left-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const std::string dead = std::to_string(dead_process()), alive = std::to_string(::getpid());
  const std::set<std::string> kept = {"out",
                                      "out.tmp-" + alive + "-0",
                                      "output.tmp-" + dead + "-0",
                                      "out.tmp-" + alive + "-0.tmp-" + dead + "-4",
                                      "out.tmp-" + dead + "-0.old",
                                      "my.out.tmp-" + dead + "-0"};
  for (const std::string& name : kept) std::ofstream(folder / name) << "x";
  fs::create_directories(folder / ("out.tmp-" + dead + "-0") / "inside");
  std::ofstream(folder / ("out.tmp-" + dead + "-0") / "inside" / "file") << "x";
  std::ofstream(folder / ("out.tmp-" + dead + "-17")) << "x";
  std::ofstream(folder / ("out.tmp-" + dead + "-0.tmp-" + dead + "-3")) << "x";
  remove_left_temporaries(folder / "out");
  std::set<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder)) found.insert(entry.path().filename().string());
  EXPECT_EQ(found, kept);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace moetap::plugin
