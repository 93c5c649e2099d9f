#include "plugin/formats/scratch_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "plugin/formats/file_error.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/file_size_limit.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

TEST(ScratchFile, HoldsWhatWasWrittenAtAnyOffset) {
  const TemporaryFolder folder;
  ScratchFile file(folder.path());
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // it has no name
  file.write(1 << 20, "behind", 6);
  file.write(2, "before", 6);
  std::string read(6, '?');
  file.read(1 << 20, read.data(), 6);
  EXPECT_EQ(read, "behind");
  file.read(2, read.data(), 6);
  EXPECT_EQ(read, "before");
  file.write(2, "later!", 6);
  file.read(2, read.data(), 6);
  EXPECT_EQ(read, "later!");
}

TEST(ScratchFile, WhatNobodyWroteIsZero) {
  const TemporaryFolder folder;
  ScratchFile file(folder.path());
  std::vector<char> read(8, 'x');
  file.read(0, read.data(), 8);
  EXPECT_EQ(read, std::vector<char>(8, 0));
  file.write(100, "end", 3);
  std::vector<char> across(10, 'x');
  file.read(98, across.data(), 10);  // before, in and beyond the end
  EXPECT_EQ(std::string(across.data(), 10), std::string("\0\0end\0\0\0\0\0", 10));
}

TEST(ScratchFile, TwoInOneFolderAreTwo) {
  const TemporaryFolder folder;
  ScratchFile one(folder.path()), other(folder.path());
  one.write(0, "one", 3);
  other.write(0, "two", 3);
  std::string read(3, '?');
  one.read(0, read.data(), 3);
  EXPECT_EQ(read, "one");
}

TEST(ScratchFile, SaysWhichFolderCannotBeWritten) {
  const TemporaryFolder folder;
  const std::string missing = folder.file("missing");
  const std::string error = error_of([&] { ScratchFile file(missing); });
  EXPECT_EQ(error, "cannot write a scratch file in " + missing + ": No such file or directory");
  const FileSizeLimit limit(1000);
  ScratchFile file(folder.path());
  EXPECT_NE(error_of([&] { file.write(2000, "full", 4); }).find("cannot write a scratch file in " + folder.path()),
            std::string::npos);
}

}  // namespace
}  // namespace moetap::plugin
