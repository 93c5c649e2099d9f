#include "plugin/process/environment.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

class EnvironmentTest : public ::testing::Test {
 protected:
  EnvironmentTest() { clear(); }
  ~EnvironmentTest() override { clear(); }

  static void clear() {
    ::unsetenv("MOETAP_CONFIG");
    ::unsetenv("MOETAP_OUTPUT_DIR");
  }

  /// What WritesWhatAChildSees writes in a child process that a shell starts with `variables` ("A=b C=d").
  std::string seen_with(const std::string& variables) const {
    const std::string output = folder_.file("seen");
    const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string command = "SEEN='" + output + "' " + variables + " '" + program +
                                "' --gtest_also_run_disabled_tests --gtest_filter='*WritesWhatAChildSees' >'" +
                                folder_.file("log") + "' 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << read_text_file(folder_.file("log"));
    return read_text_file(output);
  }

  TemporaryFolder folder_;
};

TEST_F(EnvironmentTest, NothingIsAskedFor) {
  const Environment environment = read_environment();
  EXPECT_EQ(environment.config_file, "");
  EXPECT_EQ(environment.output_dir, "");
  EXPECT_FALSE(environment.asks_to_record());
  ::setenv("MOETAP_OUTPUT_DIR", "", /*overwrite=*/1);
  EXPECT_FALSE(read_environment().asks_to_record());
}

TEST_F(EnvironmentTest, PathsAreAbsolute) {
  ::setenv("MOETAP_OUTPUT_DIR", "runs/a", /*overwrite=*/1);
  ::setenv("MOETAP_CONFIG", "/etc/moetap.json", /*overwrite=*/1);
  const Environment environment = read_environment();
  EXPECT_EQ(environment.output_dir, (std::filesystem::current_path() / "runs/a").string());
  EXPECT_EQ(environment.config_file, "/etc/moetap.json");
  EXPECT_TRUE(environment.asks_to_record());
}

TEST_F(EnvironmentTest, AFolderThatIsGoneLeavesThePathAsItIs) {
  const auto before = std::filesystem::current_path();
  std::filesystem::create_directory(folder_.file("gone"));
  std::filesystem::current_path(folder_.file("gone"));
  std::filesystem::remove(folder_.file("gone"));
  ::setenv("MOETAP_OUTPUT_DIR", "runs", /*overwrite=*/1);
  EXPECT_EQ(read_environment().output_dir, "runs");
  std::filesystem::current_path(before);
}

// Run by the two tests below, in a process of its own.
TEST_F(EnvironmentTest, DISABLED_WritesWhatAChildSees) {
  // As a host may do before its first model is loaded.
  std::filesystem::current_path("/");
  const char* preload = std::getenv("LD_PRELOAD");
  std::ofstream(std::getenv("SEEN")) << read_environment().output_dir << "|" << (preload == nullptr ? "none" : preload);
}

TEST_F(EnvironmentTest, CountsAsItWasWhenTheLibraryWasLoaded) {
  const std::string seen = seen_with("MOETAP_OUTPUT_DIR=runs");
  EXPECT_EQ(seen.substr(0, seen.find('|')), (std::filesystem::current_path() / "runs").string());
}

TEST_F(EnvironmentTest, LoadingTakesTheLibraryOutOfThePreloadedOnes) {
  Dl_info own{};
  ASSERT_NE(dladdr(reinterpret_cast<const void*>(&read_environment), &own), 0);
  const std::string library = std::filesystem::path(own.dli_fname).filename().string();
  // The loader skips files that are not there.
  const auto preloaded = [&](const std::string& entries) {
    const std::string seen = seen_with("LD_PRELOAD='" + entries + "'");
    return seen.substr(seen.find('|') + 1);
  };
  EXPECT_EQ(preloaded("/none/" + library), "none");
  EXPECT_EQ(preloaded("/none/a.so:/none/" + library + " /none/b.so::" + library), "/none/a.so:/none/b.so");
  EXPECT_EQ(preloaded("/none/x" + library), "/none/x" + library);
}

}  // namespace
}  // namespace moetap::plugin
