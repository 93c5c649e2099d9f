#include "plugin/journal/journal_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

TEST(JournalLock, OneOwnerAtATimeAndItIsNamed) {
  const TemporaryFolder folder;
  const std::string journal = folder.file("a/journal");
  const std::string self = "pid " + std::to_string(::getpid()) + " on ";
  EXPECT_FALSE(living_owner(journal));
  {
    JournalLock lock(journal);
    EXPECT_EQ(lock.predecessor(), "");
    lock.claim();
    ASSERT_TRUE(living_owner(journal));
    EXPECT_TRUE(living_owner(journal)->starts_with(self)) << *living_owner(journal);
    try {
      const JournalLock second(journal);
      ADD_FAILURE() << "locked twice";
    } catch (const std::runtime_error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with(journal + ": is written by another session (" + self))
          << error.what();
    }
  }
  EXPECT_FALSE(living_owner(journal));
}

TEST(JournalLock, WhoeverTakesOverKeepsTheNameOfTheOneThatDied) {
  const TemporaryFolder folder;
  const std::string journal = folder.file("journal");
  { JournalLock(journal).claim(); }
  std::string first;
  {
    JournalLock lock(journal);
    first = lock.predecessor();
    EXPECT_NE(first, "");
    lock.claim("pid 1 on elsewhere");
  }
  // A recovery claimed the lock and died, too: the predecessor is still the process whose run it is.
  EXPECT_EQ(JournalLock(journal).predecessor(), "pid 1 on elsewhere");
}

TEST(JournalLock, AFolderThatCannotBeMadeIsNamed) {
  const TemporaryFolder folder;
  write_text_file(folder.file("file"), "");
  try {
    const JournalLock lock(folder.file("file/journal"));
    ADD_FAILURE() << "locked";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot write " + folder.file("file/journal/owner") + ": Not a directory");
  }
}

}  // namespace
}  // namespace moetap::plugin
