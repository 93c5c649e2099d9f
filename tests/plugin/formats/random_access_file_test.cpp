#include "plugin/formats/random_access_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

TEST(RandomAccessFileTest, ReadsAtAnyPlace) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  write_text_file(path, "0123456789");
  const RandomAccessFile file(path);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.size_bytes(), 10);
  EXPECT_EQ(file.read(7, 3), "789");
  EXPECT_EQ(file.read(0, 10), "0123456789");
  EXPECT_EQ(file.read(10, 0), "");
  char two[2] = {};
  file.read(4, two, 2);
  EXPECT_EQ(std::string(two, 2), "45");
}

TEST(RandomAccessFileTest, ReadsNoFurtherThanTheEnd) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  write_text_file(path, "");
  const RandomAccessFile empty(path);
  EXPECT_EQ(empty.size_bytes(), 0);
  EXPECT_EQ(empty.read(0, 0), "");
  EXPECT_EQ(error_of([&] { empty.read(0, 1); }), "cannot read " + path + ": it ends early");

  write_text_file(path, "0123456789");
  const RandomAccessFile file(path);
  EXPECT_EQ(error_of([&] { file.read(8, 3); }), "cannot read " + path + ": it ends early");
  EXPECT_EQ(error_of([&] { file.read(-1, 3); }), "cannot read " + path + ": Invalid argument");
  std::filesystem::resize_file(path, 5);  // another process cuts the file
  EXPECT_EQ(file.read(0, 5), "01234");
  EXPECT_EQ(error_of([&] { file.read(0, 6); }), "cannot read " + path + ": it ends early");
}

TEST(RandomAccessFileTest, NamesWhatItCannotOpen) {
  const TemporaryFolder folder;
  const auto refusal = [](const std::string& path) { return error_of([&] { RandomAccessFile file(path); }); };
  const std::string none = folder.file("none");
  EXPECT_EQ(refusal(none), "cannot read " + none + ": No such file or directory");
  EXPECT_EQ(refusal(folder.path()), "cannot read " + folder.path() + ": not a regular file");
  EXPECT_EQ(refusal("/dev/full"), "cannot read /dev/full: not a regular file");
  write_text_file(folder.file("file"), "");
  const std::string below_file = folder.file("file/a");
  EXPECT_EQ(refusal(below_file), "cannot read " + below_file + ": Not a directory");
  // Opening a pipe would wait until another process opens its other end.
  const std::string pipe = folder.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(refusal(pipe), "cannot read " + pipe + ": not a regular file");
}

TEST(RandomAccessFileTest, NamesAFileThatItMayNotRead) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read every file";
  const TemporaryFolder folder;
  const std::string path = folder.file("secret");
  write_text_file(path, "text");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  EXPECT_EQ(error_of([&] { RandomAccessFile file(path); }), "cannot read " + path + ": Permission denied");
}

}  // namespace
}  // namespace moetap::plugin
