#include "plugin/formats/open_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

TEST(OpenFileTest, APathLeadsToItsFileUntilItIsRemovedOrReplaced) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  write_text_file(path, "text");
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  EXPECT_TRUE(leads_to(path, descriptor));
  std::filesystem::rename(path, folder.file("b"));
  EXPECT_FALSE(leads_to(path, descriptor));
  EXPECT_TRUE(leads_to(folder.file("b"), descriptor));
  write_text_file(path, "text");
  EXPECT_FALSE(leads_to(path, descriptor));
  ::close(descriptor);
}

}  // namespace
}  // namespace moetap::plugin
