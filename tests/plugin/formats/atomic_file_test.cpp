#include "plugin/formats/atomic_file.h"

#include <gtest/gtest.h>

#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/file_size_limit.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

size_t files_in(const TemporaryFolder& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder.path()), {}));
}

TEST(AtomicFileTest, AppearsAtCommit) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a.json");
  write_text_file(path, "old");
  AtomicFile file(path);
  file.write("new ");
  file.write("text");
  EXPECT_EQ(read_text_file(path), "old");
  file.commit();
  EXPECT_EQ(read_text_file(path), "new text");
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(AtomicFileTest, IsGoneWithoutCommit) {
  const TemporaryFolder folder;
  {
    AtomicFile file(folder.file("a.json"));
    file.write(std::string(3 << 20, 'x'));
    // A reader of every *.json must not open it.
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      EXPECT_NE(entry.path().extension(), ".json");
    }
  }
  EXPECT_EQ(files_in(folder), 0u);
}

TEST(AtomicFileTest, WritesInAnyOrder) {
  const TemporaryFolder folder;
  AtomicFile file(folder.file("a"));
  file.write_at(4, "efgh");
  file.write("abcd");
  file.commit();
  EXPECT_EQ(read_text_file(folder.file("a")), "abcdefgh");
}

TEST(AtomicFileTest, NamesTheFileThatDoesNotFit) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  const auto message = error_of([&] {
    const FileSizeLimit limit(1 << 20);
    write_file_atomically(path, std::string(4 << 20, 'x'));
  });
  EXPECT_EQ(message, "cannot write " + path + ": File too large");
  EXPECT_EQ(files_in(folder), 0u);
}

TEST(AtomicFileTest, NamesAFolderThatIsNotThere) {
  const TemporaryFolder folder;
  const std::string path = folder.file("none/a");
  EXPECT_EQ(error_of([&] { AtomicFile file(path); }), "cannot write " + path + ": No such file or directory");
}

TEST(AtomicFileTest, DoesNotReplaceAFolder) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  std::filesystem::create_directory(path);
  EXPECT_EQ(error_of([&] { write_file_atomically(path, "text"); }), "cannot write " + path + ": Is a directory");
  EXPECT_EQ(files_in(folder), 1u);
}

}  // namespace
}  // namespace moetap::plugin
