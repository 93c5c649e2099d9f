#include "plugin/merge/output_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

TEST(OutputFolder, AppearsWholeOrNotAtAll) {
  const TemporaryFolder folder;
  const std::string path = folder.file("new/parents/out");
  {
    const OutputFolder output(path + "/");
    write_text_file((output.temporary() / "file").string(), "half");
  }
  EXPECT_TRUE(fs::is_empty(folder.file("new/parents")));
  OutputFolder output(path);
  write_text_file((output.temporary() / "file").string(), "whole");
  EXPECT_FALSE(fs::exists(path));
  output.commit();
  EXPECT_EQ(read_text_file(path + "/file"), "whole");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.file("new/parents")), {}), 1);
}

TEST(OutputFolder, TakesAnEmptyFolderAndNothingElse) {
  const TemporaryFolder folder;
  fs::create_directory(folder.file("empty"));
  OutputFolder output(folder.file("empty"));
  output.commit();
  write_text_file(folder.file("empty/file"), "");
  EXPECT_EQ(error_of([&] { OutputFolder again(folder.file("empty")); }),
            folder.file("empty") + ": is there already; name another path");
  write_text_file(folder.file("a file"), "");
  EXPECT_NE(error_of([&] { OutputFolder again(folder.file("a file")); }), "");
  EXPECT_NE(error_of([&] { OutputFolder again(folder.file("a file/out")); }).find("cannot write"), std::string::npos);
}

TEST(OutputFolder, IsNotGivenToAPathThatWasTakenMeanwhile) {
  const TemporaryFolder folder;
  OutputFolder output(folder.file("out"));
  fs::create_directory(folder.file("out"));
  write_text_file(folder.file("out/of another"), "kept");
  EXPECT_NE(error_of([&] { output.commit(); }).find("is there already"), std::string::npos);
  EXPECT_EQ(read_text_file(folder.file("out/of another")), "kept");
}

TEST(OutputFolder, RemovesWhatAProcessThatDiedLeft) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    new OutputFolder(folder.file("out"));
    ::_exit(0);  // as a kill does: nothing is removed
  }
  ::waitpid(child, nullptr, 0);
  const std::string left = folder.file("out.tmp-" + std::to_string(child) + "-0");
  ASSERT_TRUE(fs::exists(left));
  const std::string other = folder.file("out.tmp-text-0"),
                    own = folder.file("out.tmp-" + std::to_string(::getpid()) + "-0");
  fs::create_directory(other);
  {
    const OutputFolder output(folder.file("out"));
    EXPECT_FALSE(fs::exists(left));
    EXPECT_TRUE(fs::exists(own));
  }
  EXPECT_TRUE(fs::exists(other));
}

}  // namespace
}  // namespace moetap::plugin
