#include "plugin/formats/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <stdexcept>

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
  // The limit on a file's size stands for a full disk: a write that fails half-way.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit limit = before;
  limit.rlim_cur = 1 << 20;
  setrlimit(RLIMIT_FSIZE, &limit);
  std::string message;
  try {
    write_file_atomically(path, std::string(4 << 20, 'x'));
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(message, "cannot write " + path + ": File too large");
  EXPECT_EQ(files_in(folder), 0u);
}

TEST(AtomicFileTest, NamesAFolderThatIsNotThere) {
  const TemporaryFolder folder;
  const std::string path = folder.file("none/a");
  try {
    AtomicFile file(path);
    FAIL() << "opened";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot write " + path + ": No such file or directory");
  }
}

}  // namespace
}  // namespace moetap::plugin
