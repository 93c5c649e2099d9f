#include "plugin/formats/whole_file.h"

#include <gtest/gtest.h>

#include "plugin/formats/atomic_file.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

TEST(WholeFile, GivesEveryByte) {
  const TemporaryFolder folder;
  std::string bytes;
  for (int i = 0; i < 200'000; ++i) bytes.push_back(static_cast<char>(i % 251));
  for (const std::string& content : {std::string(), bytes, bytes.substr(0, 1 << 16)}) {
    write_file_atomically(folder.file("bytes"), content);
    EXPECT_EQ(read_whole_file(folder.file("bytes")), content);
  }
}

TEST(WholeFile, NamesTheFileThatCannotBeRead) {
  const TemporaryFolder folder;
  for (const std::string& path : {folder.file("none"), folder.path()}) {
    try {
      read_whole_file(path);
      ADD_FAILURE() << path;
    } catch (const std::runtime_error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with("cannot read " + path + ": ")) << error.what();
    }
  }
}

}  // namespace
}  // namespace moetap::plugin
