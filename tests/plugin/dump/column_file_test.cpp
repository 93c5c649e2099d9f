#include "plugin/dump/column_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

class ColumnFileTest : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  const std::string path_ = folder_.file("a-000000.columns");
  const std::vector<ColumnFile::Column> columns_ = {{8, 2}, {100, 1}};
};

TEST_F(ColumnFileTest, PiecesLieBehindEachOtherInTheirColumn) {
  ColumnFile file(path_, columns_, ColumnFile::Open::kNew);
  file.write(1, 0, {"a", "", "bc"});
  file.write(0, 0, {"AABB"});
  file.write(0, 2, {"CC", "DDEE"});
  file.write(1, 3, {"de"});
  file.write_header("header");
  file.sync();
  EXPECT_EQ(file.read(0, 0, 5), "AABBCCDDEE");
  EXPECT_EQ(file.read(1, 1, 4), "bcde");
  const std::string bytes = read_text_file(path_);
  EXPECT_EQ(bytes.substr(0, 10), std::string("header\0\0AA", 10));
  EXPECT_EQ(bytes.size(), 105u);
}

TEST_F(ColumnFileTest, AnExistingFileKeepsItsRowsAndANewOneHasNone) {
  ColumnFile(path_, columns_, ColumnFile::Open::kNew).write(0, 0, {"AABB"});
  EXPECT_EQ(ColumnFile(path_, columns_, ColumnFile::Open::kExisting).read(0, 1, 1), "BB");
  const ColumnFile emptied(path_, columns_, ColumnFile::Open::kNew);
  EXPECT_EQ(error_of([&] { emptied.read(0, 0, 1); }), "cannot read " + path_ + ": it ends early");
}

TEST_F(ColumnFileTest, SaysWhatIsWrongWithTheFile) {
  EXPECT_EQ(error_of([&] { ColumnFile(path_, columns_, ColumnFile::Open::kExisting); }),
            "cannot read " + path_ + ": No such file or directory");
  const ColumnFile file(path_, columns_, ColumnFile::Open::kNew);
  file.check_in_place();
  std::filesystem::remove(path_);
  const std::string removed = "cannot write " + path_ + ": it was removed while the run goes on";
  EXPECT_EQ(error_of([&] { file.check_in_place(); }), removed);
  write_text_file(path_, "another file");
  EXPECT_EQ(error_of([&] { file.check_in_place(); }), removed);
}

}  // namespace
}  // namespace moetap::plugin
